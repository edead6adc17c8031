"""Reconciliation at work: sweeps of what was not delivered, and runs over everything, a page at a time."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from paybill_contracts.billing import Subscription
from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError
from paybill_contracts.reconciliation import Difference, DriftFound, DriftKind
from paybill_runtime.clock import wait_for_event
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.store import Statement
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError, single_line
from sqlalchemy import text

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.domain.catalogue import Catalogue, UnknownPriceError
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.providers.port import Lists, Provider, ProviderAwayError, ProviderRefusedError
from paybill_billing.providers.port.snapshots import ProviderSnapshot
from paybill_billing.providers.sync_queue import LEASE, enqueue_sync
from paybill_billing.reconciliation import domain as reconciliation
from paybill_billing.reconciliation.domain import Page, Run
from paybill_billing.reconciliation.tables import DRIFTS, RUNNING, RUNS, start_run
from paybill_billing.subscriptions.domain import subscriptions
from paybill_billing.subscriptions.tables import ACCOUNTS, SUBSCRIPTIONS

T = TypeVar("T")
log = logging.getLogger(__name__)

POLL_S = 1.0
MINE_AT_ONCE = 25
START = Origin("schedule", "schedule", "service:billing", "")

# One that was looked at in vain is not on its way: it is here that somebody learns of it.
_ON_THEIR_WAY = text(
    "SELECT target FROM webhook_targets WHERE provider = :provider AND target = ANY(:ids) AND reason IS NULL"
)
_OWNERS = text("SELECT customer, id FROM accounts WHERE customer = ANY(:customers)")
_MINE = text(
    "SELECT s.id, s.state->'subscription'->>'provider_subscription' AS theirs FROM subscriptions AS s "
    "WHERE s.state->'subscription'->>'provider' = :provider AND s.access <> 'ended' AND s.id > :after "
    "AND NOT EXISTS (SELECT FROM reconciliation_seen AS r "
    "WHERE r.run = :run AND r.target = s.state->'subscription'->>'provider_subscription') ORDER BY s.id LIMIT :limit"
)
_BEGAN = text(
    "SELECT coalesce((SELECT max(state->>'started_at')::timestamptz FROM reconciliations WHERE provider = :provider), "
    "(SELECT min(received_at) FROM webhooks WHERE provider = :provider)) AS began"
)


@dataclass(slots=True)
class _Found:
    """What comparing a page found: filled by the decision, written out beside it."""

    drifts: list[DriftFound] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)


class Listing(Lists, Provider, Protocol):
    """A provider that lists all subscriptions, and shows one."""


class Reconciler:
    """Compares one provider with us. Only the process that holds the lease of the webhooks works."""

    def __init__(
        self, context: ServiceContext, leases: Leases, name: str, provider: Listing, asked: asyncio.Event
    ) -> None:
        """asked: set when an operator starts a run in this process; others are found within POLL_S."""
        self._context = context
        self._leases = leases
        self._name = name
        self._provider = provider
        self._asked = asked

    async def run(self) -> None:
        """Go on with what runs, and start what is due, for ever."""
        while True:
            self._asked.clear()
            went_on = False
            try:
                if held := self._leases.held_of([LEASE]):
                    went_on = await self._step(held)
            except (DatabaseUnavailableError, LeaseLostError, OverloadedError, ProviderAwayError) as error:
                log.warning("reconciling %s waits: %s", self._name, error)
                after_s = error.after_s if isinstance(error, ProviderAwayError) else POLL_S
                await asyncio.sleep(after_s)
            except ProviderRefusedError as error:
                log.error("reconciling %s cannot go on: %s", self._name, error)  # noqa: TRY400  # said all
                await asyncio.sleep(60)
            if not went_on:
                await wait_for_event(self._asked, POLL_S)

    async def _step(self, held: dict[str, int]) -> bool:
        """Whether there was something to do."""
        rows = await self._context.rows(RUNNING, {"provider": self._name})
        if not rows:
            return await self._start_due()
        run = RUNS.load(rows[0].state)
        if not run.listed:
            page = await self._provider.subscriptions(run.after)
            await self._compare(run, page.snapshots, held, after=page.next, listed=page.next is None)
        else:
            await self._compare_mine(run, held)
        return True

    async def _start_due(self) -> bool:
        """Start the run of every day; the first a day after the first message."""
        every = timedelta(seconds=self._context.settings.reconcile_every_s)
        began: datetime | None = (await self._context.rows(_BEGAN, {"provider": self._name}))[0].began
        now = self._context.now()
        if began is None or now < began + every:
            return False
        run_id = "rec_" + sha256(f"{self._name}/{now.isoformat()}".encode()).hexdigest()[:32]
        await start_run(self._context, START, run_id, self._name, repair=True, view=lambda run: run)
        return True

    async def _compare_mine(self, run: Run, held: dict[str, int]) -> None:
        """Ours that the provider's list did not show, looked up one by one."""
        rows = await self._context.rows(
            _MINE, {"provider": self._name, "after": run.mine or "", "run": run.id, "limit": MINE_AT_ONCE}
        )
        seen, gone = [], []
        for row in rows:
            found = await self._provider.fetch(row.theirs)
            if found is None:
                gone.append(row)
            else:
                seen.append(found)
        mine = rows[-1].id if rows else run.mine
        drifts = [_drift(run, row.theirs, DriftKind.UNKNOWN_THERE, subscription_id=row.id) for row in gone]
        await self._compare(
            run, seen, held, after=None, listed=True, mine=mine, more=drifts, done=len(rows) < MINE_AT_ONCE
        )

    async def _compare(
        self,
        run: Run,
        seen: Sequence[ProviderSnapshot],
        held: dict[str, int],
        *,
        after: str | None,
        listed: bool,
        mine: str | None = None,
        more: Sequence[DriftFound] = (),
        done: bool = False,
    ) -> None:
        ids = [one.id for one in seen]
        # What of our customers is about to be looked at anyway is not drifting, it is on its way.
        waiting = await self._context.rows(_ON_THEIR_WAY, {"provider": self._name, "ids": ids})
        on_their_way = {row.target for row in waiting}
        customers = [f"{self._name}/{one.customer}" for one in seen]
        owners = {row.customer: row.id for row in await self._context.rows(_OWNERS, {"customers": customers})}
        owned = [(one, owners.get(f"{self._name}/{one.customer}")) for one in seen]
        judged = [(one, owner) for one, owner in owned if owner is None or one.id not in on_their_way]
        found = _Found()

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            state = unit.get(RUNS, run.id)
            if state is None or state.status is not reconciliation.Status.RUNNING:
                return
            judgements = (self._judged(unit, at, run, one, owner) for one, owner in judged)
            found.drifts = [*more, *(drift for drift in judgements if drift is not None)]
            found.repairs = [drift.provider_object for drift in found.drifts if drift.repaired]
            for drift in found.drifts:
                if unit.get(DRIFTS, drift.drift_id) is None:
                    unit.record(DRIFTS, drift.drift_id, [drift])
            page = Page(after, listed, mine, len(seen) + len(more), found.drifts, done)
            unit.record(RUNS, run.id, reconciliation.progress(state, page))

        def besides(statement: Statement) -> None:
            for object_ in found.repairs:
                enqueue_sync(self._name, object_, self._context.now(), statement)
            _note_seen(statement, run.id, ids, done=done)

        objects = [one.id for one, _ in judged] + [drift.provider_object for drift in more]
        await self._context.decide(
            Origin(run.id, run.id, "service:billing", ""),
            decide,
            writes=[RUNS.key(run.id), *(DRIFTS.key(_drift_id(run.id, object_)) for object_ in objects)],
            reads=[
                CATALOGUES.key(catalogue.CATALOGUE),
                *(ACCOUNTS.key(owner) for owner in {owner for _, owner in judged if owner}),
                *(SUBSCRIPTIONS.key(subscriptions.subscription_id(self._name, one.id)) for one, _ in judged),
            ],
            extra_statements=besides,
            leases=held,
        )

    def _judged(
        self, unit: UnitOfWork, at: DecisionContext, run: Run, seen: ProviderSnapshot, tenant_id: str | None
    ) -> DriftFound | None:
        """The drift of one subscription, None when there is none."""
        if tenant_id is None:
            return _stranger(run, seen, unit.get(CATALOGUES, catalogue.CATALOGUE))
        id_ = subscriptions.subscription_id(self._name, seen.id)
        standing = unit.get(SUBSCRIPTIONS, id_)
        before = standing.subscription if standing is not None else None
        try:
            after = _as_shown(unit, at, seen, tenant_id, self._name)
        except DomainError as error:
            unread = (Difference(field="unread", here=None, there=single_line(str(error))),)
            return _drift(run, seen.id, DriftKind.DIFFERENT, tenant_id, id_, unread, repaired=run.repair)
        kind = reconciliation.judge(before, after)
        if kind is None or after is None:
            return None
        differ = reconciliation.differences(before, after)
        return _drift(run, seen.id, kind, tenant_id, id_, differ, repaired=run.repair)


def _as_shown(
    unit: UnitOfWork, at: DecisionContext, seen: ProviderSnapshot, tenant_id: str, provider: str
) -> Subscription | None:
    """The subscription that a look at this object would make; None when it would change nothing."""
    account, sold = unit.get(ACCOUNTS, tenant_id), unit.get(CATALOGUES, catalogue.CATALOGUE)
    if account is None or sold is None:
        return None
    standing = unit.get(SUBSCRIPTIONS, subscriptions.subscription_id(provider, seen.id))
    events = subscriptions.sync(
        standing,
        seen,
        tenant_id=tenant_id,
        provider=provider,
        sold=subscriptions.sold(sold, account, standing, seen),
        failures=[],
        now=at.now,
        adopted=account.adopts is not None,
    )
    return events[-1].subscription if events else None


def _drift_id(run_id: str, object_: str) -> str:
    """The same when the page is compared again."""
    return "dri_" + sha256(f"{run_id}/{object_}".encode()).hexdigest()[:32]


def _drift(
    run: Run,
    object_: str,
    kind: DriftKind,
    tenant_id: str | None = None,
    subscription_id: str | None = None,
    differences: tuple[Difference, ...] = (),
    *,
    repaired: bool = False,
    **shown: Any,
) -> DriftFound:
    return DriftFound(
        drift_id=_drift_id(run.id, object_),
        run_id=run.id,
        provider=run.provider,
        provider_object=object_,
        tenant_id=tenant_id,
        subscription_id=subscription_id,
        kind=kind,
        differences=differences,
        repaired=repaired,
        **shown,
    )


def _stranger(run: Run, seen: ProviderSnapshot, sold: Catalogue | None) -> DriftFound:
    """A subscription of nobody here, and what it would be if its customer became a tenant."""
    shown: dict[str, Any] = {"customer": seen.customer, "provider_status": seen.status}
    with suppress(UnknownPriceError):
        if sold is not None:
            plan = subscriptions.first_sold(sold, run.provider, seen.items)[0].plan
            shown |= {"plan": plan.plan, "version": plan.version}
    return _drift(run, seen.id, DriftKind.UNKNOWN_CUSTOMER, **shown)


def _note_seen(statement: Statement, run_id: str, ids: Sequence[str], *, done: bool) -> None:
    """What the provider's list showed, so that ours that it did not are looked up; forgotten when all is done."""
    run = statement.value(run_id)
    if done:
        statement.add(f"DELETE FROM reconciliation_seen WHERE run = {run}")  # noqa: S608  # only our own text
    elif ids:
        rows = statement.columns(target=("text", sorted(set(ids))))
        statement.add(
            f"INSERT INTO reconciliation_seen (run, target) SELECT {run}::text, target FROM {rows} "  # noqa: S608  # as above
            "ON CONFLICT DO NOTHING"
        )
