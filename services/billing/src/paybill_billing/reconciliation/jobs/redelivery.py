"""Redelivery poll: fetches the messages that a provider could not deliver, and stores them in the inbox."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Self

from paybill_contracts.envelope import Origin
from paybill_contracts.reconciliation import DriftFound, DriftKind
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.kinds import ClaimedJob, Kind, RetryAfter
from paybill_runtime.telemetry import child

from paybill_billing.providers.port import (
    Delivery,
    EventSource,
    ProviderRefusedError,
    ProviderUnavailableError,
    RedeliverySource,
    UndeliveredPage,
)
from paybill_billing.providers.sync_queue import LEASE
from paybill_billing.reconciliation.tables import DRIFTS
from paybill_billing.webhooks.inbox import InboxMessage, WebhookInbox
from paybill_billing.webhooks.tables import KNOWN

log = logging.getLogger(__name__)

_Lister = Callable[[datetime, str | None], Awaitable[UndeliveredPage]]

PROVIDER_RETENTION = timedelta(days=30)
"""Age of the oldest events that providers list."""
OVERLAP = timedelta(minutes=10)
MIN_AGE = timedelta(seconds=60)
"""Younger messages may still be delivered."""


class RedeliveryPoller:
    """Polls one provider for undelivered messages. Only the holder of the webhook lease works."""

    def __init__(self, context: ServiceContext, name: str, provider: RedeliverySource) -> None:
        self._context = context
        self._name = name
        self._list: _Lister = provider.undelivered
        self._min_age = MIN_AGE
        self._interval_s: float = context.settings.sweep_every_s
        self._webhooks_arrive = True
        self._inbox = WebhookInbox(context)
        self._since = context.now() - PROVIDER_RETENTION

    def instead_of_webhooks(self, provider: EventSource, every_s: float) -> Self:
        """Lets it fetch all messages every `every_s` seconds, for an installation without a public address."""
        self._list, self._min_age, self._interval_s = provider.events, timedelta(0), every_s
        self._webhooks_arrive = False
        return self

    def kind(self) -> Kind:
        """Returns the kind of its job."""
        return Kind(f"redelivery/{self._name}", self._run, LEASE, Priority.BULK, recurring=True, exclusive=True)

    async def _run(self, job: ClaimedJob) -> float:
        """Polls once; returns the configured interval."""
        started_at = self._context.now()
        try:
            await self._poll(job.leases)
        except ProviderUnavailableError as error:
            log.warning("the redelivery poll of %s waits: %s", self._name, error)
            raise RetryAfter(error.after_s, str(error)) from error
        except ProviderRefusedError as error:
            log.error("the redelivery poll of %s is refused: %s", self._name, error)  # noqa: TRY400  # the message is enough, without a traceback
            raise RetryAfter(self._interval_s, str(error)) from error
        self._since = started_at - OVERLAP
        return self._interval_s

    async def _poll(self, leases: Mapping[str, int]) -> None:
        after: str | None = None
        while True:
            page = await self._list(self._since, after)
            newest = self._context.now() - self._min_age
            old = [(delivery, body) for delivery, body in page.messages if delivery.created <= newest]
            ids = [delivery.event_id for delivery, _ in old]
            known = {row.event_id for row in await self._context.rows(KNOWN, {"provider": self._name, "ids": ids})}
            undelivered = [(delivery, body) for delivery, body in old if delivery.event_id not in known]
            if undelivered and self._webhooks_arrive:
                log.warning("%s could not deliver %d messages; they are fetched", self._name, len(undelivered))
                await self._record_drifts([delivery for delivery, _ in undelivered], leases)
            if undelivered:
                await asyncio.gather(*(self._store(delivery, body) for delivery, body in undelivered))
            after = page.next
            if after is None:
                return

    async def _store(self, delivery: Delivery, body: bytes) -> None:
        encrypted = self._context.seal_raw(body)
        # A message without a trace is one that the provider could not deliver.
        traceparent = "" if self._webhooks_arrive else child(None)
        await self._inbox.store(InboxMessage(delivery, self._name, traceparent, encrypted, self._context.now()))

    async def _record_drifts(self, undelivered: list[Delivery], leases: Mapping[str, int]) -> None:
        """Records drifts before the messages are stored: after a crash in between they get the same ids again."""
        first = {delivery.target: delivery for delivery in reversed(undelivered) if delivery.target is not None}
        drifts = [self._drift(target, delivery) for target, delivery in sorted(first.items())]

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            for drift in drifts:
                if unit.get(DRIFTS, drift.drift_id) is None:
                    unit.record(DRIFTS, drift.drift_id, [drift])

        cause = undelivered[-1].event_id
        origin = Origin(cause, cause, "service:billing", "")
        await self._context.decide(
            origin, decide, writes=[DRIFTS.key(drift.drift_id) for drift in drifts], leases=leases
        )

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
