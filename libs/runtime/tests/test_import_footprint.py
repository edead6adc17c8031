"""Import footprint of a service: memory that it holds as long as it runs."""

import subprocess
import sys

import pytest

HEAVY = ("aiohttp", "alembic", "charset_normalizer", "mako", "pydantic.v1", "pygments", "rich", "typer")
PROGRAM = f"""
import paybill_runtime.main, paybill_runtime.telemetry.otlp, sys
sys.stdout.write(" ".join(name for name in {HEAVY} if sys.modules.get(name)))
"""


@pytest.mark.parametrize("flags", [(), ("-W", "error")], ids=["as it is run", "with warnings as errors"])
def test_a_service_imports_no_unnecessary_heavy_module(flags) -> None:
    loaded = subprocess.run([sys.executable, *flags, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert (loaded.stdout, loaded.stderr) == ("", "")
