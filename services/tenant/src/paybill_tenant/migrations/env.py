"""Alembic's entry point for this service's tables."""

from paybill_runtime.database.migrate import run

from paybill_tenant.tables import Base

run(Base.metadata)
