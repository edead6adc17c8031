"""Alembic's entry point for the runtime's tables."""

from paybill_runtime.database.migrate import run
from paybill_runtime.database.tables import metadata

run(metadata)
