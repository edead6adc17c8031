"""Journeys: the first facts of aggregates, to which spans of later traces are linked."""

from collections.abc import Sequence

from paybill_runtime.database.pool import Database
from paybill_runtime.decisions import outbox
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.telemetry import TraceLink, exporting


async def journeys(database: Database, keys: Sequence[Key]) -> dict[Key, TraceLink]:
    """Returns a link to the first fact of each of these aggregates; nothing without an OTLP endpoint."""
    if not keys or not exporting():
        return {}
    by_name = {f"{key.kind}/{key.id}": key for key in keys}
    async with database.direct() as connection:
        first = await outbox.first_facts(connection, list(by_name))
    return {by_name[name]: TraceLink(fact.traceparent, fact.correlation) for name, fact in first.items()}
