"""Imports of a service: memory that it holds as long as it runs, and modules that plug-ins must be able to import."""

import subprocess
import sys

import pytest

HEAVY = ("alembic", "mako", "pygments", "rich", "typer")
LOADED = f"""
import paybill_runtime.main, paybill_runtime.telemetry.otlp, sys
sys.stdout.write(" ".join(name for name in {HEAVY} if name in sys.modules))
"""
# aiohttp is the transport of the Azure SDK; it is installed here for tests.
IMPORTABLE = """
import paybill_runtime.main, paybill_runtime.telemetry.otlp, sys
sys.stdout.write(" ".join(name for name, module in sys.modules.items() if module is None))
import aiohttp, charset_normalizer, pydantic.v1
"""


@pytest.mark.parametrize("flags", [(), ("-W", "error")], ids=["as it is run", "with warnings as errors"])
def test_a_service_imports_no_unnecessary_heavy_module(flags) -> None:
    loaded = subprocess.run([sys.executable, *flags, "-c", LOADED], capture_output=True, text=True, check=True)

    assert (loaded.stdout, loaded.stderr) == ("", "")


def test_a_service_prevents_no_import() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTABLE], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("paybill_runtime.main", ("opentelemetry.instrumentation", "wrapt")),
        ("paybill_runtime.messaging.streams", ("sqlalchemy", "asyncpg", "pydantic_settings")),
        ("paybill_runtime.replay.__main__", ("fastapi", "uvicorn", "opentelemetry.exporter")),
    ],
)
def test_a_command_does_not_import_what_only_a_service_needs(module: str, unused: tuple[str, ...]) -> None:
    program = f"import {module}, sys; sys.stdout.write(' '.join(name for name in {unused} if name in sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout == ""
