"""Sweeps: what a provider could not deliver is fetched, and kept as if it had been."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256

from paybill_contracts.envelope import Origin
from paybill_contracts.reconciliation import DriftFound, DriftKind
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError
from sqlalchemy import text

from paybill_billing.providers.port import Delivery, ProviderAwayError, ProviderRefusedError, Redelivers
from paybill_billing.providers.sync_queue import LEASE
from paybill_billing.reconciliation.tables import DRIFTS
from paybill_billing.webhooks.inbox import Inbox, Kept

log = logging.getLogger(__name__)

POLL_S = 1.0
LISTED = timedelta(days=30)
"""How long providers list what happened."""
OVERLAP = timedelta(minutes=10)
ON_ITS_WAY = timedelta(seconds=60)
"""What is younger may still arrive by itself."""
_KNOWN = text("SELECT event_id FROM webhooks WHERE provider = :provider AND event_id = ANY(:ids)")


class Sweeper:
    """Asks one provider for what it could not deliver. Only the process that holds the lease of the webhooks works."""

    def __init__(
        self, context: ServiceContext, leases: Leases, name: str, provider: Redelivers, kept: Callable[[str], None]
    ) -> None:
        self._context = context
        self._leases = leases
        self._name = name
        self._provider = provider
        self._inbox = Inbox(context.database, kept)
        self._since = context.now() - LISTED

    async def run(self) -> None:
        """Sweep now and then, for ever."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            try:
                if clock() >= due and (held := self._leases.held_of([LEASE])):
                    began = self._context.now()
                    await self._sweep(held)
                    self._since, due = began - OVERLAP, clock() + self._context.settings.sweep_every_s
            except (DatabaseUnavailableError, LeaseLostError, OverloadedError) as error:
                log.warning("what %s could not deliver waits: %s", self._name, error)
            except ProviderAwayError as error:
                log.warning("what %s could not deliver waits: %s", self._name, error)
                due = clock() + error.after_s
            except ProviderRefusedError as error:
                log.error("%s does not say what it could not deliver: %s", self._name, error)  # noqa: TRY400  # said all
                due = clock() + self._context.settings.sweep_every_s
            await asyncio.sleep(POLL_S)

    async def _sweep(self, held: dict[str, int]) -> None:
        after: str | None = None
        while True:
            page = await self._provider.undelivered(self._since, after)
            young = self._context.now() - ON_ITS_WAY
            old = [(delivery, body) for delivery, body in page.messages if delivery.created < young]
            ids = [delivery.event_id for delivery, _ in old]
            known = {row.event_id for row in await self._context.rows(_KNOWN, {"provider": self._name, "ids": ids})}
            missed = [(delivery, body) for delivery, body in old if delivery.event_id not in known]
            if missed:
                log.warning("%s could not deliver %d messages; they are fetched", self._name, len(missed))
                await self._say([delivery for delivery, _ in missed], held)
                await asyncio.gather(*(self._keep(delivery, body) for delivery, body in missed))
            after = page.next
            if after is None:
                return

    async def _keep(self, delivery: Delivery, body: bytes) -> None:
        sealed = self._context.seal_raw(body)
        await self._inbox.keep(Kept(delivery, self._name, "", sealed, self._context.now()))

    async def _say(self, missed: list[Delivery], held: dict[str, int]) -> None:
        """Before they are kept, so that a crash in between says it again under the same id."""
        first = {delivery.target: delivery for delivery in reversed(missed) if delivery.target is not None}
        drifts = [self._drift(target, delivery) for target, delivery in sorted(first.items())]

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            for drift in drifts:
                if unit.get(DRIFTS, drift.drift_id) is None:
                    unit.record(DRIFTS, drift.drift_id, [drift])

        cause = missed[-1].event_id
        origin = Origin(cause, cause, "service:billing", "")
        await self._context.decide(origin, decide, writes=[DRIFTS.key(drift.drift_id) for drift in drifts], leases=held)

    def _drift(self, target: str, delivery: Delivery) -> DriftFound:
        return DriftFound(
            drift_id="dri_" + sha256(f"{self._name}/{delivery.event_id}/{target}".encode()).hexdigest()[:32],
            run_id=None,
            provider=self._name,
            provider_object=target,
            tenant_id=None,
            subscription_id=None,
            kind=DriftKind.UNDELIVERED,
            differences=(),
            repaired=True,
        )
