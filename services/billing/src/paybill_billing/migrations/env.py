"""Alembic's entry point for this service's tables."""

from paybill_runtime.database.migrate import run

from paybill_billing.tables import METADATA

run(METADATA)
