"""The inbox of webhooks, emptied: each subscription is looked at once for all that was said about it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError
from paybill_runtime.clock import woken
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError
from paybill_runtime.http import Edge
from paybill_runtime.leases import Leases
from paybill_runtime.store import Statement
from paybill_runtime.telemetry import span
from paybill_runtime.unit import Moment, Unit
from pydantic import ValidationError
from sqlalchemy import Row, text

from paybill_billing.domain import catalogue, entitlements, payments, subscriptions
from paybill_billing.domain.payments import Attempt
from paybill_billing.domain.subscriptions import Failure, Seen
from paybill_billing.effects import Inbound, Provider, ProviderAwayError, ProviderRefusedError
from paybill_billing.effects.shapes import ShapeError
from paybill_billing.tables import ACCOUNTS, CATALOGUES, ENTITLEMENTS, NO_ACCOUNT, PAYMENTS, SUBSCRIPTIONS

log = logging.getLogger(__name__)

LEASE = "webhooks"
AT_ONCE = 16
POLL_S = 0.2
LONGEST_DELAY_S = 3600.0
KEPT = timedelta(days=30)
CLEANING_S = 3600.0

# What is due, with all that is needed to look at it: what was said about it, by whose customer, and whose that is.
_DUE = text(
    "SELECT t.target, t.seq, t.tries, w.ids, w.types, w.traceparent, w.customers, "
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
_BODIES = text(
    "SELECT created, body FROM webhooks WHERE provider = :provider AND event_id = ANY(:ids) ORDER BY created, event_id"
)
_TENANT = text("SELECT id FROM accounts WHERE customer = :customer")
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

    def __init__(
        self,
        edge: Edge,
        leases: Leases,
        provider_name: str,
        provider: Provider,
        inbound: Inbound,
        arrived: asyncio.Event,
    ) -> None:
        """arrived: set by whoever keeps a message in this process; what others keep is found within POLL_S."""
        self._edge = edge
        self._leases = leases
        self._name = provider_name
        self._provider = provider
        self._inbound = inbound
        self._arrived = arrived
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look for what is due, for ever. Only the process that holds the lease works."""
        clock = asyncio.get_running_loop().time
        welcome_at = clean_at = clock()
        try:
            while True:
                self._arrived.clear()
                try:
                    if self._leases.some([LEASE]):
                        if clock() >= welcome_at:
                            await self._welcome()
                            welcome_at = clock() + POLL_S
                        await self._start_due()
                        if clock() >= clean_at:
                            await forget_bodies(self._edge)
                            clean_at = clock() + CLEANING_S
                except DatabaseUnavailableError as error:
                    log.warning("webhooks wait: %s", error)
                await woken(self._arrived, POLL_S)
        finally:
            for task in self._busy.values():
                task.cancel()

    async def _welcome(self) -> None:
        """What waited for an account that is open now is due."""
        values = {"provider": self._name, "now": self._edge.now(), "reason": NO_ACCOUNT}
        async with self._edge.database.transaction() as connection:
            await connection.execute(_WELCOME, values)

    async def _start_due(self) -> None:
        room = AT_ONCE - len(self._busy)
        if room <= 0:
            return
        values = {"provider": self._name, "now": self._edge.now(), "busy": list(self._busy), "room": room}
        for row in await self._edge.rows(_DUE, values):
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
        owners = dict(target.owners)
        if target.customers and not owners:
            raise UnknownCustomerError(min(target.customers).removeprefix(f"{self._name}/"))
        with span(f"look at {target.target}", target.traceparent) as here:
            seen = await self._provider.look(target.target)
            ids = target.ids or []
            done = {"provider": self._name, "target": target.target, "seq": target.seq, "ids": ids}
            done["now"] = self._edge.now()
            if seen is None:
                log.warning("%s does not know %s any more", self._name, target.target)
                origin = Origin(target.target, target.target, f"webhook:{self._name}", here)
                await self._edge.decide(origin, lambda *_: None, besides=partial(_finish, done), held=held)
                return
            customer = f"{self._name}/{seen.customer}"
            tenant_id = owners.get(customer) or await self._tenant_of(customer)
            if tenant_id is None:
                raise UnknownCustomerError(seen.customer)
            cause = ids[0] if ids else target.target
            origin = Origin(cause, cause, f"webhook:{self._name}", here)
            await self._decide(origin, tenant_id, seen, await self._failures(target), done, held)

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
            pinned = subscriptions.sold(sold, account, standing, seen)
            events = subscriptions.sync(
                standing,
                seen,
                tenant_id=tenant_id,
                provider=self._name,
                sold=pinned,
                failures=[Failure(attempt.invoice, when) for attempt, when in failures],
                now=at.now,
            )
            unit.record(SUBSCRIPTIONS, id_, events)
            # In the same decision, for the tenant waits: hearing our own fact first would cost it a hop.
            for event in events:
                before = unit.get(ENTITLEMENTS, tenant_id)
                settled = entitlements.settle(before, event.subscription, pinned.plan, at.now)
                unit.record(ENTITLEMENTS, tenant_id, settled)

        await self._edge.decide(
            origin,
            decide,
            writes=[
                SUBSCRIPTIONS.key(id_),
                ENTITLEMENTS.key(tenant_id),
                *(PAYMENTS.key(attempt.event) for attempt, _ in failures),
            ],
            reads=[ACCOUNTS.key(tenant_id), CATALOGUES.key(catalogue.CATALOGUE)],
            besides=partial(_finish, done),
            held=held,
        )

    async def _tenant_of(self, customer: str) -> str | None:
        """As it is now: the account may have been opened while we looked."""
        rows = await self._edge.rows(_TENANT, {"customer": customer})
        return rows[0].id if rows else None

    async def _failures(self, target: Row[Any]) -> list[tuple[Attempt, datetime]]:
        """The failed attempts among what waits, and when the provider says that each was."""
        waiting = zip(target.ids or (), target.types or (), strict=True)
        telling = [event_id for event_id, type_ in waiting if self._inbound.tells_of_failure(type_)]
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


def _finish(done: Mapping[str, Any], statement: Statement) -> None:
    """What waited is done; when more came since we looked, the subscription stays, and is due."""
    now, provider, ids = map(statement.value, (done["now"], done["provider"], done["ids"]))
    where = f"provider = {provider} AND target = {statement.value(done['target'])}"
    seq = statement.value(done["seq"])
    statement.do(f"UPDATE webhooks SET done_at = {now} WHERE provider = {provider} AND event_id = ANY({ids})")  # noqa: S608
    statement.do(f"DELETE FROM webhook_targets WHERE {where} AND seq = {seq}")  # noqa: S608
    statement.do(f"UPDATE webhook_targets SET tries = 0, due = {now}, reason = NULL WHERE {where} AND seq <> {seq}")  # noqa: S608


async def forget_bodies(edge: Edge) -> None:
    """Bodies are personal and go after 30 days; that a message came stays known."""
    async with edge.database.transaction() as connection:
        gone = await connection.execute(_FORGET, {"before": edge.now() - KEPT})
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
