"""Announcement of the signing key: a service records its public key before the first fact that it signs."""

from functools import partial

from paybill_contracts.envelope import Origin
from paybill_contracts.event import Event
from sqlalchemy import text

from paybill_runtime.clock import new_id
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.security.signing_identity import SigningIdentity

_IS_RECORDED = text("SELECT EXISTS (SELECT FROM chassis.outbox WHERE aggregate = :aggregate)")


async def announce(identity: SigningIdentity, database: Database, group_commit: GroupCommit) -> None:
    """Records the facts about the key and about withdrawn ones, each once in the life of the database."""
    for event in (identity.announcement, *identity.withdrawals):
        await _record(event, database, group_commit)


async def _record(event: Event, database: Database, group_commit: GroupCommit) -> None:
    async def is_recorded() -> bool:
        async with database.reading() as connection:
            query = await connection.execute(_IS_RECORDED, {"aggregate": event.aggregate_id})
            return bool(query.scalar_one())

    if await is_recorded():
        return
    id_ = new_id()
    try:
        await group_commit.decide(Decision(Origin(id_, id_, f"service:{event.OWNER}", ""), partial(_emit, event)))
    except Exception:
        if not await is_recorded():  # else another replica was first
            raise


def _emit(event: Event, unit: UnitOfWork, _: DecisionContext) -> None:
    unit.emit(event)
