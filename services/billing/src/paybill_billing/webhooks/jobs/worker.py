"""Worker of the sync queue: fetches each provider object once for all of its stored webhooks."""

import asyncio
import logging
from datetime import timedelta
from functools import partial

from paybill_contracts.errors import DomainError
from paybill_runtime.clock import wait_for_event
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError
from pydantic import ValidationError

from paybill_billing.providers.port import (
    Inbound,
    MalformedObjectError,
    Provider,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from paybill_billing.providers.sync_queue import ENQUEUE_ALL, LEASE, NO_ACCOUNT, POSTPONE
from paybill_billing.subscriptions.tables import OVERDUE_SUBSCRIPTIONS, REQUEUE_OPENED_ACCOUNTS
from paybill_billing.webhooks.domain import StaleReadError, UnknownCustomerError, retry_delay_s
from paybill_billing.webhooks.jobs.subscription_sync import SubscriptionSync
from paybill_billing.webhooks.tables import DELETE_BODIES, SyncTask, due_tasks

log = logging.getLogger(__name__)

MAX_CONCURRENT_SYNCS = 16
POLL_S = 0.2
BODY_RETENTION = timedelta(days=30)
CLEANUP_INTERVAL_S = 3600.0
OVERDUE_INTERVAL_S = 2.0
OVERDUE_BATCH = 32
"""Slower than Stripe's rate limit, so that syncs for webhooks go on meanwhile."""
OVERDUE_PAUSE_S = 300.0
"""Time until an overdue subscription is queued again."""


class WebhookWorker:
    """Processes the sync queue of one provider: many objects concurrently, each by one task."""

    def __init__(
        self,
        context: ServiceContext,
        leases: Leases,
        provider_name: str,
        provider: Provider,
        inbound: Inbound | None,
        stored: asyncio.Event,
    ) -> None:
        """inbound: None for a provider that sends no messages.

        stored: set when this process stores a message; messages that others store are found within POLL_S.
        """
        self._context = context
        self._leases = leases
        self._name = provider_name
        self._sync = SubscriptionSync(context, provider_name, provider, inbound)
        self._stored = stored
        self._running: dict[str, asyncio.Task[None]] = {}
        self._paused_until: dict[str, float] = {}

    async def run(self) -> None:
        """Runs until cancelled. Only the holder of the lease works."""
        clock = asyncio.get_running_loop().time
        requeue_at = overdue_at = cleanup_at = clock()
        try:
            while True:
                self._stored.clear()
                try:
                    if not (self._leases.certain and self._leases.held_of([LEASE])):
                        self._cancel_syncs()
                    else:
                        if clock() >= requeue_at:
                            await self._requeue_opened_accounts()
                            requeue_at = clock() + POLL_S
                        if clock() >= overdue_at:
                            await self._enqueue_overdue()
                            overdue_at = clock() + OVERDUE_INTERVAL_S
                        await self._start_due()
                        if clock() >= cleanup_at:
                            await delete_old_bodies(self._context)
                            cleanup_at = clock() + CLEANUP_INTERVAL_S
                except DatabaseUnavailableError as error:
                    log.warning("webhooks wait: %s", error)
                await wait_for_event(self._stored, POLL_S)
        finally:
            self._cancel_syncs()

    def _cancel_syncs(self) -> None:
        """Cancels all syncs: together with the next owner of the lease they would exceed the rate limit."""
        for task in self._running.values():
            task.cancel()

    async def _requeue_opened_accounts(self) -> None:
        """Makes due the entries whose customer has an open account now."""
        values = {"provider": self._name, "now": self._context.now(), "reason": NO_ACCOUNT}
        async with self._context.database.transaction() as connection:
            await connection.execute(REQUEUE_OPENED_ACCOUNTS, values)

    async def _enqueue_overdue(self) -> None:
        """Queues subscriptions that should have changed, but no webhook came; their state stays until the sync."""
        time = asyncio.get_running_loop().time()
        self._paused_until = {id_: until for id_, until in self._paused_until.items() if until > time}
        now = self._context.now()
        values = {"now": now.replace(tzinfo=None).isoformat(), "provider": self._name, "limit": OVERDUE_BATCH}
        rows = await self._context.rows(OVERDUE_SUBSCRIPTIONS, {**values, "paused": list(self._paused_until)})
        if not rows:
            return
        self._paused_until.update({row.id: time + OVERDUE_PAUSE_S for row in rows})
        async with self._context.database.transaction() as connection:
            targets = [row.provider_subscription for row in rows]
            await connection.execute(ENQUEUE_ALL, {"provider": self._name, "now": now, "targets": targets})

    async def _start_due(self) -> None:
        free_slots = MAX_CONCURRENT_SYNCS - len(self._running)
        if free_slots <= 0:
            return
        for due in await due_tasks(self._context, self._name, self._context.now(), self._running, free_slots):
            task = asyncio.create_task(self._run_one(due))
            self._running[due.target] = task
            task.add_done_callback(partial(self._finished, due.target))

    def _finished(self, target: str, _: asyncio.Task[None]) -> None:
        """Starts the next poll at once: another object may start, or newer messages of this one."""
        self._running.pop(target, None)
        self._stored.set()

    async def _run_one(self, task: SyncTask) -> None:
        """Syncs one object; an error is recorded in its entry and affects no other."""
        try:
            held = self._leases.held_of([LEASE])
            if held:
                await self._sync.run(task, held)
        except StaleReadError as error:
            log.info("%s is fetched again: %s", task.target, error)
        except (DatabaseUnavailableError, LeaseLostError, OverloadedError) as error:
            log.warning("the sync of %s waits: %s", task.target, error)
            await asyncio.sleep(POLL_S)
        except UnknownCustomerError as error:
            await self._postpone(task, retry_delay_s(task.tries), str(error), error.customer)
        except ProviderUnavailableError as error:
            log.warning("the sync of %s waits: %s", task.target, error)
            await self._postpone(task, error.after_s, str(error))
        except (DomainError, ProviderRefusedError, MalformedObjectError, ValidationError) as error:
            reason = _summary(error)
            log.error("the sync of %s is refused: %s", task.target, reason)  # noqa: TRY400  # the summary is enough
            await self._postpone(task, retry_delay_s(task.tries), reason)
        except Exception as error:
            log.exception("the sync of %s failed", task.target)
            await self._postpone(task, retry_delay_s(task.tries), _summary(error))

    async def _postpone(self, task: SyncTask, after_s: float, reason: str, customer: str | None = None) -> None:
        values = {
            "provider": self._name,
            "target": task.target,
            "seq": task.seq,
            "tries": task.tries + 1,
            "due": self._context.now() + timedelta(seconds=after_s),
            "reason": reason,
            "customer": customer,
        }
        try:
            async with self._context.database.transaction() as connection:
                await connection.execute(POSTPONE, values)
        except DatabaseUnavailableError as error:
            log.warning("the sync of %s waits: %s", task.target, error)


async def delete_old_bodies(context: ServiceContext) -> None:
    """Deletes bodies after 30 days, because they hold personal data; the rest of the message stays."""
    async with context.database.transaction() as connection:
        deleted = await connection.execute(DELETE_BODIES, {"before": context.now() - BODY_RETENTION})
    if deleted.rowcount:
        log.info("the bodies of %d webhooks are deleted", deleted.rowcount)


def _summary(error: Exception) -> str:
    """Returns the error for operators, without the provider's data that a ValidationError quotes."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
    return f"{type(error).__name__}: {error}"[:400]
