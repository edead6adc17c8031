"""The inbox of webhooks, emptied: each subscription is looked at once for all that was said about it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError
from paybill_runtime.http import Edge
from paybill_runtime.leases import Leases
from paybill_runtime.telemetry import span
from paybill_runtime.unit import Moment, Unit
from pydantic import ValidationError
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paybill_billing.domain import catalogue, payments, subscriptions
from paybill_billing.domain.payments import Attempt
from paybill_billing.domain.subscriptions import Failure, Seen
from paybill_billing.effects import Inbound, Provider, ProviderAwayError, ProviderRefusedError
from paybill_billing.effects.shapes import ShapeError
from paybill_billing.tables import ACCOUNTS, CATALOGUES, NO_ACCOUNT, PAYMENTS, SUBSCRIPTIONS

log = logging.getLogger(__name__)

LEASE = "webhooks"
AT_ONCE = 16
POLL_S = 0.2
LONGEST_DELAY_S = 3600.0
KEPT = timedelta(days=30)
CLEANING_S = 3600.0

_DUE = text(
    "SELECT target, seq, tries FROM webhook_targets "
    "WHERE provider = :provider AND due <= :now AND NOT target = ANY(:busy) ORDER BY due LIMIT :room"
)
_WELCOME = text(
    "UPDATE webhook_targets SET due = :now, tries = 0, reason = NULL WHERE (provider, target) IN ("
    "SELECT t.provider, t.target FROM webhook_targets AS t "
    "JOIN accounts AS a ON a.customer = t.provider || '/' || t.customer "
    "WHERE t.provider = :provider AND t.reason = :reason ORDER BY t.provider, t.target FOR UPDATE OF t SKIP LOCKED)"
)
_WAITING = text(
    "SELECT event_id, type, created, customer, traceparent FROM webhooks "
    "WHERE provider = :provider AND target = :target AND done_at IS NULL ORDER BY created, event_id"
)
_BODIES = text("SELECT event_id, type, created, body FROM webhooks WHERE provider = :provider AND event_id = ANY(:ids)")
_TENANT = text("SELECT id FROM accounts WHERE customer = :customer")
_DONE = text("UPDATE webhooks SET done_at = :now WHERE provider = :provider AND event_id = ANY(:ids)")
_LOOKED = text("DELETE FROM webhook_targets WHERE provider = :provider AND target = :target AND seq = :seq")
_MORE_CAME = text(
    "UPDATE webhook_targets SET tries = 0, due = :now, reason = NULL WHERE provider = :provider AND target = :target"
)
_LATER = text(
    "UPDATE webhook_targets SET tries = :tries, due = :due, reason = :reason, customer = coalesce(:customer, customer) "
    "WHERE provider = :provider AND target = :target AND seq = :seq"
)
_FORGET = text("UPDATE webhooks SET body = NULL WHERE body IS NOT NULL AND received_at < :before")


class UnknownCustomerError(Exception):
    """No account has the customer: it is not open yet, or is none of ours. It is tried again as soon as one has."""

    def __init__(self, customer: str) -> None:
        super().__init__(NO_ACCOUNT)
        self.customer = customer


class Ingest:
    """Empties the inbox of one provider, many subscriptions at once, each by one task at a time."""

    def __init__(self, edge: Edge, leases: Leases, provider_name: str, provider: Provider, inbound: Inbound) -> None:
        self._edge = edge
        self._leases = leases
        self._name = provider_name
        self._provider = provider
        self._inbound = inbound
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look for what is due, for ever. Only the process that holds the lease works."""
        clean_at = self._edge.now()
        try:
            while True:
                try:
                    if self._leases.some([LEASE]):
                        await self._start_due()
                        if self._edge.now() >= clean_at:
                            await forget_bodies(self._edge)
                            clean_at = self._edge.now() + timedelta(seconds=CLEANING_S)
                except DatabaseUnavailableError as error:
                    log.warning("webhooks wait: %s", error)
                await asyncio.sleep(POLL_S)
        finally:
            for task in self._busy.values():
                task.cancel()

    async def _start_due(self) -> None:
        room = AT_ONCE - len(self._busy)
        if room <= 0:
            return
        now = self._edge.now()
        async with self._edge.database.transaction() as connection:
            await connection.execute(_WELCOME, {"provider": self._name, "now": now, "reason": NO_ACCOUNT})
            values = {"provider": self._name, "now": now, "busy": list(self._busy), "room": room}
            rows = (await connection.execute(_DUE, values)).all()
        for row in rows:
            task = asyncio.create_task(self._one(row))
            self._busy[row.target] = task
            task.add_done_callback(partial(self._finished, row.target))

    def _finished(self, target: str, _: asyncio.Task[None]) -> None:
        self._busy.pop(target, None)

    async def _one(self, target: Row[Any]) -> None:
        """Look at one subscription; whatever goes wrong is written beside it, and concerns nobody else."""
        try:
            held = self._leases.some([LEASE])
            if held:
                await self._follow(target, held)
        except (DatabaseUnavailableError, LeaseLostError, OverloadedError) as error:
            log.warning("webhooks of %s wait: %s", target.target, error)
            await asyncio.sleep(POLL_S)
        except UnknownCustomerError as error:
            await self._later(target, _delay_s(target.tries), str(error), error.customer)
        except ProviderAwayError as error:
            log.warning("webhooks of %s wait: %s", target.target, error)
            await self._later(target, error.after_s, str(error))
        except (DomainError, ProviderRefusedError, ShapeError, ValidationError) as error:
            log.error("webhooks of %s cannot be understood: %s", target.target, _short(error))  # noqa: TRY400  # said all
            await self._later(target, _delay_s(target.tries), _short(error))
        except Exception as error:
            log.exception("webhooks of %s fail", target.target)
            await self._later(target, _delay_s(target.tries), _short(error))

    async def _follow(self, target: Row[Any], held: dict[str, int]) -> None:
        where = {"provider": self._name, "target": target.target}
        waiting = await self._edge.rows(_WAITING, where)
        customers = {row.customer for row in waiting if row.customer is not None}
        if customers and not any([await self._tenant_of(customer) for customer in sorted(customers)]):
            raise UnknownCustomerError(min(customers))
        with span(f"look at {target.target}", waiting[0].traceparent if waiting else None) as here:
            seen = await self._provider.look(target.target)
            done = {"now": self._edge.now(), "ids": [row.event_id for row in waiting], "seq": target.seq, **where}
            if seen is None:
                log.warning("%s does not know %s any more", self._name, target.target)
                async with self._edge.database.transaction() as connection:
                    await _finish(connection, done)
                return
            tenant_id = await self._tenant_of(seen.customer)
            if tenant_id is None:
                raise UnknownCustomerError(seen.customer)
            cause = waiting[0].event_id if waiting else target.target
            origin = Origin(cause, cause, f"webhook:{self._name}", here)
            await self._decide(origin, tenant_id, seen, await self._failures(waiting), done, held)

    async def _decide(
        self,
        origin: Origin,
        tenant_id: str,
        seen: Seen,
        failures: Sequence[tuple[Attempt, datetime]],
        done: Mapping[str, Any],
        held: dict[str, int],
    ) -> None:
        id_ = subscriptions.subscription_id(self._name, seen.id)

        def decide(unit: Unit, at: Moment) -> None:
            account, sold = unit.get(ACCOUNTS, tenant_id), unit.get(CATALOGUES, catalogue.CATALOGUE)
            if account is None or sold is None:
                raise UnknownCustomerError(seen.customer)
            for attempt, _ in failures:
                known = unit.get(PAYMENTS, attempt.event)
                said = payments.fail(known, attempt, tenant_id=tenant_id, subscription_id=id_)
                unit.record(PAYMENTS, attempt.event, said)
            standing = unit.get(SUBSCRIPTIONS, id_)
            events = subscriptions.sync(
                standing,
                seen,
                tenant_id=tenant_id,
                provider=self._name,
                sold=subscriptions.sold(sold, account, standing, seen),
                failures=[Failure(attempt.invoice, when) for attempt, when in failures],
                now=at.now,
            )
            unit.record(SUBSCRIPTIONS, id_, events)

        await self._edge.decide(
            origin,
            decide,
            writes=[SUBSCRIPTIONS.key(id_), *(PAYMENTS.key(attempt.event) for attempt, _ in failures)],
            reads=[ACCOUNTS.key(tenant_id), CATALOGUES.key(catalogue.CATALOGUE)],
            also=lambda connection: _finish(connection, done),
            held=held,
        )

    async def _tenant_of(self, customer: str) -> str | None:
        rows = await self._edge.rows(_TENANT, {"customer": f"{self._name}/{customer}"})
        return rows[0].id if rows else None

    async def _failures(self, waiting: Sequence[Row[Any]]) -> list[tuple[Attempt, datetime]]:
        """The failed attempts among what waits, and when the provider says that each was."""
        telling = [row.event_id for row in waiting if self._inbound.tells_of_failure(row.type)]
        if not telling:
            return []
        found = []
        for row in await self._edge.rows(_BODIES, {"provider": self._name, "ids": telling}):
            if row.body is not None:
                attempt = self._inbound.attempt(self._edge.open_raw(bytes(row.body)))
                found += [(attempt, row.created)] if attempt is not None else []
        return found

    async def _later(self, target: Row[Any], after_s: float, reason: str, customer: str | None = None) -> None:
        values = {
            "provider": self._name,
            "target": target.target,
            "seq": target.seq,
            "tries": target.tries + 1,
            "due": self._edge.now() + timedelta(seconds=after_s),
            "reason": reason,
            "customer": customer,
        }
        try:
            async with self._edge.database.transaction() as connection:
                await connection.execute(_LATER, values)
        except DatabaseUnavailableError as error:
            log.warning("webhooks of %s wait: %s", target.target, error)


async def forget_bodies(edge: Edge) -> None:
    """Bodies are personal and go after 30 days; that a message came stays known."""
    async with edge.database.transaction() as connection:
        gone = await connection.execute(_FORGET, {"before": edge.now() - KEPT})
    if gone.rowcount:
        log.info("the bodies of %d webhooks are gone", gone.rowcount)


async def _finish(connection: AsyncConnection, done: Mapping[str, Any]) -> None:
    """What waited is done; when more came since we looked, the subscription is to be looked at again."""
    await connection.execute(_DONE, {name: done[name] for name in ("provider", "ids", "now")})
    looked = await connection.execute(_LOOKED, {name: done[name] for name in ("provider", "target", "seq")})
    if not looked.rowcount:
        await connection.execute(_MORE_CAME, {name: done[name] for name in ("provider", "target", "now")})


def _delay_s(tries: int) -> float:
    """How long to wait after this many tries: doubling from a second, at most an hour."""
    return min(2.0 ** min(tries, 12), LONGEST_DELAY_S)


def _short(error: Exception) -> str:
    """For operators: never what a provider sent, which a ValidationError would quote."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
    return f"{type(error).__name__}: {error}"[:400]
