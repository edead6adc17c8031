"""Alembic's entry point for the chassis's tables."""

from paybill_runtime.migrate import run
from paybill_runtime.tables import metadata

run(metadata)
