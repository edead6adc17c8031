"""Chooses a free port for each part, and keeps it over restarts."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

from paybill_embedded import free_port
from paybill_embedded.credentials import write_private
from paybill_embedded.ports import LOOPBACK, port_taken

from paybill_stack.errors import FailureKind, StackError
from paybill_stack.layout import SERVICES, STRIPE_FAKE

NATS = "nats"
POSTGRES = "postgres"
PARTS = (NATS, POSTGRES, STRIPE_FAKE, *SERVICES)

_RELEASE_TIMEOUT_S = 1.0
"""Time that the processes of a killed supervisor may take to end and release their ports."""

_LOWEST, _HIGHEST = 1024, 65_535


def choose_ports(path: Path, base: int | None, report: Callable[[str], None]) -> dict[str, int]:
    """Returns a port for each of PARTS: from `base` on, or the stored ones that are free, or any free port.

    Raises EmbeddedError port_taken for a port of `base` that is not free: the caller relies on the ports it names.
    """
    if base is not None:
        if not _LOWEST <= base <= _HIGHEST - len(PARTS):
            raise StackError(
                "ports",
                f"--port-base {base} is out of range",
                next=f"choose {_LOWEST} to {_HIGHEST - len(PARTS)}",
                kind=FailureKind.USAGE,
            )
        chosen = {name: base + index for index, name in enumerate(PARTS)}
        for name, port in chosen.items():
            if not _becomes_free(port):
                raise port_taken(port, name)
    else:
        stored = _stored(path)
        chosen = {}
        for name in PARTS:
            if name in stored and _becomes_free(stored[name]):
                chosen[name] = stored[name]
                continue
            chosen[name] = free_port()
            if name in stored:
                report(f"port {stored[name]} is taken by another program; {name} uses {chosen[name]} from now on")
    write_private(path, json.dumps(chosen, indent=2) + "\n")
    return chosen


def _stored(path: Path) -> dict[str, int]:
    """Returns the ports of the previous start; none when the file is missing or damaged."""
    try:
        stored = json.loads(path.read_bytes())
        return {name: port for name, port in stored.items() if isinstance(port, int) and _LOWEST <= port <= _HIGHEST}
    except (OSError, ValueError, AttributeError):
        return {}


def _becomes_free(port: int) -> bool:
    deadline = time.monotonic() + _RELEASE_TIMEOUT_S
    while True:
        try:
            socket.create_server((LOOPBACK, port)).close()
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True
