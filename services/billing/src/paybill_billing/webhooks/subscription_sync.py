"""What one object of a provider comes to: looked at once, and told in one statement with the end of its messages."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import RetryLaterError
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.store import Statement
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.telemetry import span
from sqlalchemy import Row, text

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.providers.port import Inbound, Provider, ProviderRefusedError, ReferenceResolver, ResolvedReference
from paybill_billing.providers.port.snapshots import CollectionAttempt, ProviderSnapshot
from paybill_billing.providers.sync_queue import NO_ACCOUNT, enqueue_sync
from paybill_billing.subscriptions.domain import payments, subscriptions
from paybill_billing.subscriptions.domain.payments import Payer
from paybill_billing.subscriptions.domain.subscriptions import FailedCollection
from paybill_billing.subscriptions.tables import ACCOUNTS, PAYMENTS, SUBSCRIPTIONS

log = logging.getLogger(__name__)

_BODIES = text(
    "SELECT event_id, created, object_id, body FROM webhooks "
    "WHERE provider = :provider AND event_id = ANY(:ids) ORDER BY created, event_id"
)
_TENANT = text("SELECT id FROM accounts WHERE customer = :customer")
_OTHERS = text("SELECT id FROM subscriptions WHERE tenant_id = :tenant_id AND id <> :id ORDER BY id")


class UnknownCustomerError(Exception):
    """No account has the customer: it is not open yet, or is none of ours. It is tried again as soon as one has."""

    def __init__(self, customer: str) -> None:
        super().__init__(NO_ACCOUNT)
        self.customer = customer


class OvertakenError(RetryLaterError):
    """Somebody decided about the subscription while we looked: what we saw may be older than that, so look again."""

    code = "overtaken"


class Following:
    """Looks at the objects of one provider. inbound: None when it sends no messages."""

    def __init__(self, context: ServiceContext, name: str, provider: Provider, inbound: Inbound | None) -> None:
        self._context = context
        self._name = name
        self._provider = provider
        self._inbound = inbound
        self._deciding: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def follow(self, target: Row[Any], held: dict[str, int]) -> None:
        """Look at what is due, and record what it comes to. held: the lease that has to be ours then.

        Raises UnknownCustomerError, OvertakenError, and whatever the provider and the rules refuse with.
        """
        if target.customers and not target.owners:
            raise UnknownCustomerError(min(target.customers).removeprefix(f"{self._name}/"))
        kind, _, id_ = target.target.rpartition("/")
        with span(f"look at {target.target}", target.traceparent) as here:
            cause = target.ids[0] if target.ids else target.target
            origin = Origin(cause, cause, f"webhook:{self._name}", here)
            if kind:
                await self._trace(target, kind, id_, origin, held)
            else:
                await self._look(target, origin, held)

    async def _look(self, target: Row[Any], origin: Origin, held: dict[str, int]) -> None:
        seen = await self._provider.fetch(target.target)
        if seen is None:
            log.warning("%s does not know %s any more", self._name, target.target)
            await self._context.decide(
                origin, _nothing, extra_statements=partial(_finish, self._done(target)), leases=held
            )
            return
        tenant_id = await self._tenant(target, seen.customer)
        failures = await self._failures(target)
        # One of a tenant at a time: a subscription that is new between finding the others and deciding would be missed.
        async with self._deciding.setdefault(tenant_id, asyncio.Lock()):
            others = await self._others(tenant_id, seen)
            await self._decide(target, origin, tenant_id, seen, failures, held, others)

    async def _decide(
        self,
        target: Row[Any],
        origin: Origin,
        tenant_id: str,
        seen: ProviderSnapshot,
        failures: Sequence[tuple[CollectionAttempt, datetime]],
        held: dict[str, int],
        others: Sequence[str],
    ) -> None:
        id_ = subscriptions.subscription_id(self._name, seen.id)

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            account, sold = unit.get(ACCOUNTS, tenant_id), unit.get(CATALOGUES, catalogue.CATALOGUE)
            if account is None or sold is None:
                raise UnknownCustomerError(seen.customer)
            if unit.revision(SUBSCRIPTIONS, id_) != target.revision:
                raise OvertakenError(f"{seen.id} changed while it was looked at")
            for attempt, _ in failures:
                known = unit.get(PAYMENTS, attempt.event)
                said = payments.fail(known, attempt, tenant_id=tenant_id, subscription_id=id_)
                unit.record(PAYMENTS, attempt.event, said)
            standing = unit.get(SUBSCRIPTIONS, id_)
            pinned = subscriptions.sold(sold, account, standing, seen)
            found = [unit.get(SUBSCRIPTIONS, other) for other in others]
            besides = [other.subscription for other in found if other is not None]
            events = subscriptions.sync(
                standing,
                seen,
                tenant_id=tenant_id,
                provider=self._name,
                sold=pinned,
                failures=[FailedCollection(attempt.invoice, when) for attempt, when in failures],
                now=at.now,
                adopted=account.adopts is not None,
                others=besides,
            )
            unit.record(SUBSCRIPTIONS, id_, events)
            # In the same decision, for the tenant waits: hearing our own fact first would cost it a hop.
            for event in events:
                before = unit.get(ENTITLEMENTS, tenant_id)
                instead = entitlements.fallback_of(besides, sold)
                settled = entitlements.apply_subscription(before, event.subscription, pinned.plan, at.now, instead)
                unit.record(ENTITLEMENTS, tenant_id, settled)

        await self._context.decide(
            origin,
            decide,
            writes=[
                SUBSCRIPTIONS.key(id_),
                ENTITLEMENTS.key(tenant_id),
                *(PAYMENTS.key(attempt.event) for attempt, _ in failures),
            ],
            reads=[ACCOUNTS.key(tenant_id), CATALOGUES.key(catalogue.CATALOGUE), *map(SUBSCRIPTIONS.key, others)],
            extra_statements=partial(_finish, self._done(target)),
            leases=held,
        )

    async def _trace(self, target: Row[Any], kind: str, id_: str, origin: Origin, held: dict[str, int]) -> None:
        """Find what another object is about: money that goes back is told here, the rest moves to where it belongs."""
        if not isinstance(self._provider, ReferenceResolver):
            raise ProviderRefusedError(f"{self._name} shows no {kind}")
        trail = await self._provider.resolve(kind, id_)
        if trail is None:
            log.warning("%s does not know %s any more", self._name, target.target)
        elif trail.target is not None and trail.target != target.target:
            move = partial(_move, self._done(target), trail.target)
            await self._context.decide(origin, _nothing, extra_statements=move, leases=held)
            return
        elif trail.returned and trail.customer is None:
            log.info("%s of %s was paid by no customer, so it is none of ours", target.target, self._name)
        elif trail.returned:
            await self._give_back(target, trail, await self._tenant(target, trail.customer or ""), origin, held)
            return
        await self._context.decide(origin, _nothing, extra_statements=partial(_finish, self._done(target)), leases=held)

    async def _give_back(
        self, target: Row[Any], trail: ResolvedReference, tenant_id: str, origin: Origin, held: dict[str, int]
    ) -> None:
        about = trail.subscription
        id_ = subscriptions.subscription_id(self._name, about) if about is not None else None
        payer = Payer(tenant_id, self._name, id_, trail.invoice)

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            for returned in trail.returned:
                known = unit.get(PAYMENTS, returned.id)
                unit.record(PAYMENTS, returned.id, payments.record_return(known, returned, payer))

        await self._context.decide(
            origin,
            decide,
            writes=[PAYMENTS.key(returned.id) for returned in trail.returned],
            extra_statements=partial(_finish, self._done(target)),
            leases=held,
        )

    async def _tenant(self, target: Row[Any], customer: str) -> str:
        """Whose customer it is, also if the account was opened while we looked. Raises UnknownCustomerError."""
        name = f"{self._name}/{customer}"
        owner: str | None = dict(target.owners).get(name)
        if owner is None:
            rows = await self._context.rows(_TENANT, {"customer": name})
            owner = rows[0].id if rows else None
        if owner is None:
            raise UnknownCustomerError(customer)
        return owner

    async def _others(self, tenant_id: str, seen: ProviderSnapshot) -> list[str]:
        """The tenant's other subscriptions, any of which may take over from one that need not give access."""
        if seen.is_entitling:
            return []
        id_ = subscriptions.subscription_id(self._name, seen.id)
        return [row.id for row in await self._context.rows(_OTHERS, {"tenant_id": tenant_id, "id": id_})]

    async def _failures(self, target: Row[Any]) -> list[tuple[CollectionAttempt, datetime]]:
        """The failed attempts among what waits, and when the provider says that each was."""
        if self._inbound is None:
            return []
        waiting = zip(target.ids or (), target.types or (), strict=True)
        telling = [event_id for event_id, type_ in waiting if self._inbound.is_payment_failure(type_)]
        if not telling:
            return []
        found = []
        for row in await self._context.rows(_BODIES, {"provider": self._name, "ids": telling}):
            attempt = None
            if row.body is not None:
                attempt = self._inbound.failed_attempt(row.event_id, self._context.open_raw(bytes(row.body)))
            if attempt is None and row.object_id is not None and isinstance(self._provider, ReferenceResolver):
                attempt = await self._provider.failed_attempt(row.event_id, row.object_id)
            found += [(attempt, row.created)] if attempt is not None else []
        return found

    def _done(self, target: Row[Any]) -> Mapping[str, Any]:
        return {
            "provider": self._name,
            "target": target.target,
            "seq": target.seq,
            "ids": target.ids or [],
            "now": self._context.now(),
        }


def _nothing(_unit: UnitOfWork, _at: DecisionContext) -> None:
    """There is nothing to tell."""


def _finish(done: Mapping[str, Any], statement: Statement) -> None:
    """What waited is done."""
    now, provider, ids = map(statement.value, (done["now"], done["provider"], done["ids"]))
    statement.add(f"UPDATE webhooks SET done_at = {now} WHERE provider = {provider} AND event_id = ANY({ids})")  # noqa: S608
    _release(done, statement)


def _move(done: Mapping[str, Any], target: str, statement: Statement) -> None:
    """What waited is about another object, and waits there from now on."""
    to, provider, ids = map(statement.value, (target, done["provider"], done["ids"]))
    statement.add(f"UPDATE webhooks SET target = {to} WHERE provider = {provider} AND event_id = ANY({ids})")  # noqa: S608
    _release(done, statement)
    enqueue_sync(done["provider"], target, done["now"], statement)


def _release(done: Mapping[str, Any], statement: Statement) -> None:
    """The object was looked at; when more came since, it stays, and is due."""
    now, provider, target, seq = map(statement.value, (done["now"], done["provider"], done["target"], done["seq"]))
    where = f"provider = {provider} AND target = {target}"
    statement.add(f"DELETE FROM webhook_targets WHERE {where} AND seq = {seq}")  # noqa: S608
    statement.add(f"UPDATE webhook_targets SET tries = 0, due = {now}, reason = NULL WHERE {where} AND seq <> {seq}")  # noqa: S608
