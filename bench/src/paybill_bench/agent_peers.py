"""Peers of the agent benchmarks: a server of database tools, and a tool without work on the official MCP SDK."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from paybill_embedded.ports import free_port
from paybill_embedded.postgres import PostgresServer

from paybill_bench.servers import BenchmarkError, accepts_connections, child, program

TOOLBOX = "@toolbox-sdk/server@1.12.0"
_INSTALL_S = 300
_TOOLS = """
kind: source
name: orders
type: postgres
host: 127.0.0.1
port: {port}
database: {database}
user: {user}
password: {password}
---
kind: tool
name: read_orders
type: postgres-sql
source: orders
description: Reads the orders of a customer.
statement: {read}
parameters:
  - {{name: customer, type: string, description: Id of the customer.}}
---
kind: tool
name: write_order
type: postgres-sql
source: orders
description: Sets the total of an order.
statement: {write}
parameters:
  - {{name: order, type: string, description: Id of the order.}}
  - {{name: total, type: integer, description: New total.}}
"""


class PeerUnavailableError(Exception):
    """A peer cannot be installed here. The message is the reason."""


@asynccontextmanager
async def toolbox(
    folder: Path, postgres: PostgresServer, database: str, statements: tuple[str, str]
) -> AsyncIterator[int]:
    """Runs MCP Toolbox for Databases; returns its port. statements: those of its two tools, a read and a write.

    Raises PeerUnavailableError.
    """
    installed = await asyncio.to_thread(_installed, folder)
    port, log = free_port(), folder / "toolbox.log"
    tools = folder / "tools.yaml"
    tools.write_text(
        _TOOLS.format(
            port=postgres.port,
            database=database,
            user="postgres",
            password=postgres.password("postgres"),
            read=statements[0],
            write=statements[1],
        ),
        encoding="utf-8",
    )
    tools.chmod(0o600)
    options = ("--disable-version-check", "--disable-reload", "--log-level", "ERROR")
    with program([str(installed), "--config", str(tools), "--port", str(port), *options], log) as process:
        await accepts_connections(process, port, log)
        yield port


def _installed(folder: Path) -> Path:
    """Installs the program with npm. Raises PeerUnavailableError."""
    npm = shutil.which("npm")
    if npm is None:
        raise PeerUnavailableError("npm is not installed")
    command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", TOOLBOX]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailableError(f"npm cannot install {TOOLBOX} ({type(error).__name__})") from error
    for found in (folder / "node_modules").glob("@toolbox-sdk/server-*/bin/toolbox"):
        found.chmod(0o755)
        return found
    raise PeerUnavailableError(f"{TOOLBOX} has no program for {os.uname().machine}")


@asynccontextmanager
async def noop(folder: Path) -> AsyncIterator[int]:
    """Runs a tool without work on the official SDK; returns its port."""
    port, log = free_port(), folder / "child.log"
    with child("paybill_bench.peers.mcp_noop", str(port), log=log) as process:
        try:
            await accepts_connections(process, port, log)
        except BenchmarkError as error:
            raise PeerUnavailableError(str(error)) from error
        yield port
