"""Announcement of the signing key: a service records its public key before the first fact that it signs."""

from paybill_contracts.envelope import Origin
from sqlalchemy import text

from paybill_runtime.clock import new_id
from paybill_runtime.database.pool import Database
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.security.signing_identity import SigningIdentity

_IS_RECORDED = text("SELECT EXISTS (SELECT FROM chassis.outbox WHERE aggregate = :aggregate)")


async def announce(service: str, identity: SigningIdentity, database: Database, group_commit: GroupCommit) -> None:
    """Records the fact about the key, once in the life of the database."""

    async def is_recorded() -> bool:
        async with database.reading() as connection:
            query = await connection.execute(_IS_RECORDED, {"aggregate": identity.announcement.aggregate_id})
            return bool(query.scalar_one())

    def record(unit: UnitOfWork, _: DecisionContext) -> None:
        unit.emit(identity.announcement)

    if await is_recorded():
        return
    id_ = new_id()
    try:
        await group_commit.decide(Decision(Origin(id_, id_, f"service:{service}", ""), record))
    except Exception:
        if not await is_recorded():  # else another replica was first
            raise
