"""The inbox of webhooks, emptied: each subscription is looked at once for all that was said about it."""

import asyncio
import logging
from datetime import timedelta
from functools import partial
from typing import Any

from paybill_contracts.errors import DomainError
from paybill_runtime.clock import wait_for_event
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError
from pydantic import ValidationError
from sqlalchemy import Row, text

from paybill_billing.providers.port import (
    Inbound,
    MalformedObjectError,
    Provider,
    ProviderAwayError,
    ProviderRefusedError,
)
from paybill_billing.providers.sync_queue import LEASE, NO_ACCOUNT
from paybill_billing.webhooks.subscription_sync import Following, OvertakenError, UnknownCustomerError

log = logging.getLogger(__name__)

AT_ONCE = 16
POLL_S = 0.2
LONGEST_DELAY_S = 3600.0
KEPT = timedelta(days=30)
CLEANING_S = 3600.0
OVERDUE_S = 2.0
OVERDUE_AT_ONCE = 32
"""Together less than Stripe's pace: what was heard about goes on meanwhile."""
REST_S = 300.0
"""How long one is left alone that was looked at because it is overdue."""

# What is due, with all that is needed to look at it: what was said about it, by whose customer, whose that is, and what
# we know already, so that what is decided meanwhile is noticed.
_DUE = text(
    "SELECT t.target, t.seq, t.tries, w.ids, w.types, w.traceparent, w.customers, "
    "coalesce((SELECT revision FROM subscriptions "
    "WHERE id = 'sub_' || left(encode(sha256(convert_to(t.provider || '/' || t.target, 'UTF8')), 'hex'), 32)), 0) "
    "AS revision, "
    "ARRAY(SELECT ARRAY[a.customer, a.id] FROM accounts AS a WHERE a.customer = ANY(w.customers)) AS owners "
    "FROM webhook_targets AS t CROSS JOIN LATERAL ("
    "SELECT array_agg(event_id ORDER BY created, event_id) AS ids, "
    "array_agg(type ORDER BY created, event_id) AS types, "
    "(array_agg(traceparent ORDER BY created, event_id))[1] AS traceparent, "
    "array_agg(DISTINCT provider || '/' || customer) FILTER (WHERE customer IS NOT NULL) AS customers "
    "FROM webhooks WHERE provider = t.provider AND target = t.target AND done_at IS NULL) AS w "
    "WHERE t.provider = :provider AND t.due <= :now AND NOT t.target = ANY(:busy) ORDER BY t.due LIMIT :room"
)
_WELCOME = text(
    "UPDATE webhook_targets SET due = :now, tries = 0, reason = NULL WHERE (provider, target) IN ("
    "SELECT t.provider, t.target FROM webhook_targets AS t "
    "JOIN accounts AS a ON a.customer = t.provider || '/' || t.customer "
    "WHERE t.provider = :provider AND t.reason = :reason ORDER BY t.provider, t.target FOR UPDATE OF t SKIP LOCKED)"
)
_OVERDUE = text(
    "SELECT id, state->'subscription'->>'provider_subscription' AS theirs FROM subscriptions "
    "WHERE look <= :now AND state->'subscription'->>'provider' = :provider AND NOT id = ANY(:resting) "
    "ORDER BY look LIMIT :room"
)
_LOOK = text(
    "INSERT INTO webhook_targets (provider, target, seq, tries, due) "
    "SELECT :provider, target, 1, 0, :now FROM unnest(CAST(:targets AS text[])) AS n (target) ORDER BY target "
    "ON CONFLICT DO NOTHING"
)
_LATER = text(
    "UPDATE webhook_targets SET tries = :tries, due = :due, reason = :reason, customer = coalesce(:customer, customer) "
    "WHERE provider = :provider AND target = :target AND seq = :seq"
)
_FORGET = text("UPDATE webhooks SET body = NULL WHERE body IS NOT NULL AND received_at < :before")


class Ingest:
    """Empties the inbox of one provider, many subscriptions at once, each by one task at a time."""

    def __init__(
        self,
        context: ServiceContext,
        leases: Leases,
        provider_name: str,
        provider: Provider,
        inbound: Inbound | None,
        arrived: asyncio.Event,
    ) -> None:
        """inbound: None for a provider without messages, whose subscriptions are looked at for other reasons alone.

        arrived: set by whoever keeps a message in this process; what others keep is found within POLL_S.
        """
        self._context = context
        self._leases = leases
        self._name = provider_name
        self._following = Following(context, provider_name, provider, inbound)
        self._arrived = arrived
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._resting: dict[str, float] = {}

    async def run(self) -> None:
        """Look for what is due, for ever. Only the process that holds the lease works."""
        clock = asyncio.get_running_loop().time
        welcome_at = overdue_at = clean_at = clock()
        try:
            while True:
                self._arrived.clear()
                try:
                    if not (self._leases.certain and self._leases.held_of([LEASE])):
                        self._stop_looking()
                    else:
                        if clock() >= welcome_at:
                            await self._welcome()
                            welcome_at = clock() + POLL_S
                        if clock() >= overdue_at:
                            await self._look_at_overdue()
                            overdue_at = clock() + OVERDUE_S
                        await self._start_due()
                        if clock() >= clean_at:
                            await forget_bodies(self._context)
                            clean_at = clock() + CLEANING_S
                except DatabaseUnavailableError as error:
                    log.warning("webhooks wait: %s", error)
                await wait_for_event(self._arrived, POLL_S)
        finally:
            self._stop_looking()

    def _stop_looking(self) -> None:
        """Whoever has the lease now looks at all of it, as fast as the provider allows: both would be too fast."""
        for task in self._busy.values():
            task.cancel()

    async def _welcome(self) -> None:
        """What waited for an account that is open now is due."""
        values = {"provider": self._name, "now": self._context.now(), "reason": NO_ACCOUNT}
        async with self._context.database.transaction() as connection:
            await connection.execute(_WELCOME, values)

    async def _look_at_overdue(self) -> None:
        """What should have changed by now and was not heard of is due; until we have looked, it stays as it is."""
        time = asyncio.get_running_loop().time()
        self._resting = {id_: until for id_, until in self._resting.items() if until > time}
        now = self._context.now()
        values = {"now": now.replace(tzinfo=None).isoformat(), "provider": self._name, "room": OVERDUE_AT_ONCE}
        rows = await self._context.rows(_OVERDUE, {**values, "resting": list(self._resting)})
        if not rows:
            return
        self._resting.update({row.id: time + REST_S for row in rows})
        async with self._context.database.transaction() as connection:
            await connection.execute(
                _LOOK, {"provider": self._name, "now": now, "targets": [row.theirs for row in rows]}
            )

    async def _start_due(self) -> None:
        room = AT_ONCE - len(self._busy)
        if room <= 0:
            return
        values = {"provider": self._name, "now": self._context.now(), "busy": list(self._busy), "room": room}
        for row in await self._context.rows(_DUE, values):
            task = asyncio.create_task(self._one(row))
            self._busy[row.target] = task
            task.add_done_callback(partial(self._finished, row.target))

    def _finished(self, target: str, _: asyncio.Task[None]) -> None:
        """There is room for another, or more was said about this one meanwhile."""
        self._busy.pop(target, None)
        self._arrived.set()

    async def _one(self, target: Row[Any]) -> None:
        """Look at one subscription; whatever goes wrong is written beside it, and concerns nobody else."""
        try:
            held = self._leases.held_of([LEASE])
            if held:
                await self._following.follow(target, held)
        except OvertakenError as error:
            log.info("webhooks of %s are looked at again: %s", target.target, error)
        except (DatabaseUnavailableError, LeaseLostError, OverloadedError) as error:
            log.warning("webhooks of %s wait: %s", target.target, error)
            await asyncio.sleep(POLL_S)
        except UnknownCustomerError as error:
            await self._later(target, _delay_s(target.tries), str(error), error.customer)
        except ProviderAwayError as error:
            log.warning("webhooks of %s wait: %s", target.target, error)
            await self._later(target, error.after_s, str(error))
        except (DomainError, ProviderRefusedError, MalformedObjectError, ValidationError) as error:
            log.error("webhooks of %s cannot be understood: %s", target.target, _short(error))  # noqa: TRY400  # said all
            await self._later(target, _delay_s(target.tries), _short(error))
        except Exception as error:
            log.exception("webhooks of %s fail", target.target)
            await self._later(target, _delay_s(target.tries), _short(error))

    async def _later(self, target: Row[Any], after_s: float, reason: str, customer: str | None = None) -> None:
        values = {
            "provider": self._name,
            "target": target.target,
            "seq": target.seq,
            "tries": target.tries + 1,
            "due": self._context.now() + timedelta(seconds=after_s),
            "reason": reason,
            "customer": customer,
        }
        try:
            async with self._context.database.transaction() as connection:
                await connection.execute(_LATER, values)
        except DatabaseUnavailableError as error:
            log.warning("webhooks of %s wait: %s", target.target, error)


async def forget_bodies(context: ServiceContext) -> None:
    """Bodies are personal and go after 30 days; that a message came stays known."""
    async with context.database.transaction() as connection:
        gone = await connection.execute(_FORGET, {"before": context.now() - KEPT})
    if gone.rowcount:
        log.info("the bodies of %d webhooks are gone", gone.rowcount)


def _delay_s(tries: int) -> float:
    """How long to wait after this many tries: doubling from a second, at most an hour."""
    return min(2.0 ** min(tries, 12), LONGEST_DELAY_S)


def _short(error: Exception) -> str:
    """For operators: never what a provider sent, which a ValidationError would quote."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
    return f"{type(error).__name__}: {error}"[:400]
