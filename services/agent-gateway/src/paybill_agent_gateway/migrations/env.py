"""Alembic's entry point for this service's tables."""

from paybill_runtime.database.migrate import run

from paybill_agent_gateway.tables import Base

run(Base.metadata)
