"""A gateway in a process of its own that exports its spans: `python traced_gateway.py SETTINGS` prints its port.

It serves HTTP until its standard input is closed.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any


@asynccontextmanager
async def traced_gateway(settings: Any, directory: Path, collector: str) -> AsyncIterator[int]:
    """Runs the process; yields its port. All spans have arrived when the block has ended. collector: OTLP endpoint."""
    file = directory / "traced_gateway.json"
    file.write_text(settings.model_dump_json())
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        str(file),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


async def _serve(settings_file: str) -> None:
    from paybill_agent_gateway.app import service  # noqa: PLC0415  # the process alone needs the service
    from paybill_agent_gateway.settings import Settings  # noqa: PLC0415
    from paybill_runtime.app import Running  # noqa: PLC0415
    from paybill_runtime.serving import serving  # noqa: PLC0415
    from paybill_runtime.telemetry import configure, flush  # noqa: PLC0415

    configure("agent-gateway", "WARNING")
    settings = Settings.model_validate_json(Path(settings_file).read_text()).model_copy(update={"http_port": 0})
    async with Running(service(), settings) as running, serving(running) as port:
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
    flush()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
