"""Reconciliation job: compares all subscriptions of a provider with ours, one page at a time."""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol

from paybill_contracts.accounts import LeftoverAction, LeftoverFound
from paybill_contracts.billing import Subscription
from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError
from paybill_contracts.reconciliation import Difference, DriftFound, DriftKind
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import UNFAILED_REQUESTS, Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import single_line
from paybill_runtime.jobs.kinds import ClaimedJob, Kind, RetryAfter

from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.domain.catalogue import Catalogue, UnknownPriceError
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.providers import sync_queue
from paybill_billing.providers.port import Provider, ProviderRefusedError, ProviderUnavailableError, SubscriptionLister
from paybill_billing.providers.port.snapshots import ProviderSnapshot
from paybill_billing.providers.sync_queue import LEASE, enqueue_sync
from paybill_billing.reconciliation import domain as reconciliation
from paybill_billing.reconciliation.domain import Page, Run
from paybill_billing.reconciliation.tables import (
    DRIFTS,
    LAST_START,
    RUNNING,
    RUNS,
    UNLISTED_SUBSCRIPTIONS,
    kind_of,
    note_listed,
    start_run,
)
from paybill_billing.subscriptions.domain import leftovers, subscriptions
from paybill_billing.subscriptions.domain.accounts import Account, AccountEvent
from paybill_billing.subscriptions.tables import ACCOUNTS, ACCOUNTS_OF_CUSTOMERS, SUBSCRIPTIONS
from paybill_billing.webhooks.tables import DISMISSED_AMONG

log = logging.getLogger(__name__)

REFUSED_DELAY_S = 60.0
LONGEST_WAIT_S = 3600.0
UNLISTED_BATCH = 25
_SCHEDULE = Origin("schedule", "schedule", "service:billing", "")


@dataclass(slots=True)
class _Found:
    """Result of the decision about a page, for the statements that are committed with it."""

    drifts: list[DriftFound] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)


class ListingProvider(SubscriptionLister, Provider, Protocol):
    """A provider that lists all subscriptions and fetches one."""


class Reconciler:
    """Compares one provider with us. Only the holder of the webhook lease works."""

    def __init__(self, context: ServiceContext, name: str, provider: ListingProvider) -> None:
        self._context = context
        self._name = name
        self._provider = provider

    def kind(self) -> Kind:
        """Returns the kind of its job, which compares one page at a time."""
        return Kind(kind_of(self._name), self._run, LEASE, Priority.BULK, recurring=True, exclusive=True)

    async def _run(self, job: ClaimedJob) -> float:
        """Continues the running run, or starts the scheduled one; returns the seconds until the next step."""
        try:
            return await self._step(job.leases)
        except ProviderUnavailableError as error:
            log.warning("the reconciliation of %s waits: %s", self._name, error)
            raise RetryAfter(error.after_s, str(error)) from error
        except ProviderRefusedError as error:
            log.error("the reconciliation of %s is refused: %s", self._name, error)  # noqa: TRY400  # the message is enough, without a traceback
            raise RetryAfter(REFUSED_DELAY_S, str(error)) from error

    async def _step(self, leases: Mapping[str, int]) -> float:
        rows = await self._context.rows(RUNNING, {"provider": self._name})
        if not rows:
            return await self._start_scheduled()
        run = RUNS.load(rows[0].state)
        if not run.listed:
            page = await self._provider.subscriptions(run.after)
            await self._compare(run, page.snapshots, leases, after=page.next, listed=page.next is None)
        else:
            await self._compare_unlisted(run, leases)
        return 0.0

    async def _start_scheduled(self) -> float:
        """Starts the daily run when it is due; the first one a day after the first webhook."""
        interval = timedelta(seconds=self._context.settings.reconcile_every_s)
        last: datetime | None = (await self._context.rows(LAST_START, {"provider": self._name}))[0].started_at
        now = self._context.now()
        if last is None or now < last + interval:
            next_at = now + interval if last is None else last + interval
            return min((next_at - now).total_seconds(), LONGEST_WAIT_S)
        run_id = "rec_" + sha256(f"{self._name}/{now.isoformat()}".encode()).hexdigest()[:32]
        await start_run(self._context, _SCHEDULE, run_id, self._name, repair=True, view=lambda run: run)
        return 0.0

    async def _compare_unlisted(self, run: Run, leases: Mapping[str, int]) -> None:
        """Fetches our subscriptions that the provider's list did not contain, one by one."""
        rows = await self._context.rows(
            UNLISTED_SUBSCRIPTIONS,
            {"provider": self._name, "after": run.mine or "", "run": run.id, "limit": UNLISTED_BATCH},
        )
        snapshots, unknown = [], []
        for row in rows:
            snapshot = await self._provider.fetch(row.provider_subscription)
            if snapshot is None:
                unknown.append(row)
            else:
                snapshots.append(snapshot)
        mine = rows[-1].id if rows else run.mine
        drifts = [
            _drift(run, row.provider_subscription, DriftKind.UNKNOWN_THERE, subscription_id=row.id) for row in unknown
        ]
        await self._compare(
            run, snapshots, leases, after=None, listed=True, mine=mine, more=drifts, done=len(rows) < UNLISTED_BATCH
        )

    async def _compare(
        self,
        run: Run,
        snapshots: Sequence[ProviderSnapshot],
        leases: Mapping[str, int],
        *,
        after: str | None,
        listed: bool,
        mine: str | None = None,
        more: Sequence[DriftFound] = (),
        done: bool = False,
    ) -> None:
        ids = [snapshot.id for snapshot in snapshots]
        # A subscription of our customer with a pending sync is no drift: the sync will apply the change.
        queued = await self._context.rows(UNFAILED_REQUESTS, {"kind": sync_queue.kind_of(self._name), "keys": ids})
        pending = {row.key for row in queued}
        names = [f"{self._name}/{snapshot.customer}" for snapshot in snapshots]
        rows = await self._context.rows(ACCOUNTS_OF_CUSTOMERS, {"customers": names})
        owners = {row.customer: row.id for row in rows}
        owned = [(snapshot, owners.get(name)) for snapshot, name in zip(snapshots, names, strict=True)]
        dismissed = await self._dismissed(run, [name for name in names if name not in owners])
        compared = [
            (snapshot, owner)
            for snapshot, owner in owned
            if (f"{self._name}/{snapshot.customer}" not in dismissed if owner is None else snapshot.id not in pending)
        ]
        found = _Found()

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            state = unit.get(RUNS, run.id)
            if state is None or state.status is not reconciliation.Status.RUNNING:
                return
            results = (self._drift_of(unit, at, run, snapshot, owner) for snapshot, owner in compared)
            found.drifts = [*more, *(drift for drift in results if drift is not None)]
            tried = (drift for drift in found.drifts if run.repair and drift.tenant_id is not None)
            found.repairs = [drift.provider_object for drift in tried]
            for drift in found.drifts:
                if unit.get(DRIFTS, drift.drift_id) is None:
                    unit.record(DRIFTS, drift.drift_id, [drift])
            page = Page(after, listed, mine, len(snapshots) + len(more), found.drifts, done)
            unit.record(RUNS, run.id, reconciliation.progress(state, page))

        def statements(statement: Statement) -> None:
            for object_ in found.repairs:
                enqueue_sync(self._name, object_, self._context.now(), statement)
            note_listed(statement, run.id, ids, done=done)

        objects = [snapshot.id for snapshot, _ in compared] + [drift.provider_object for drift in more]
        await self._context.decide(
            Origin(run.id, run.id, "service:billing", ""),
            decide,
            writes=[RUNS.key(run.id), *(DRIFTS.key(_drift_id(run.id, object_)) for object_ in objects)],
            reads=[
                CATALOGUES.key(catalogue.CATALOGUE),
                *(ACCOUNTS.key(owner) for owner in {owner for _, owner in compared if owner}),
                *(
                    SUBSCRIPTIONS.key(subscriptions.subscription_id(self._name, snapshot.id))
                    for snapshot, _ in compared
                ),
            ],
            extra_statements=statements,
            leases=leases,
        )

    async def _dismissed(self, run: Run, strangers: Sequence[str]) -> Collection[str]:
        """Returns the customers that are dismissed. A dry run reports them too: a backfill may make one a tenant."""
        if not run.repair or not strangers:
            return ()
        return {row.id for row in await self._context.rows(DISMISSED_AMONG, {"ids": list(strangers)})}

    def _drift_of(
        self, unit: UnitOfWork, at: DecisionContext, run: Run, snapshot: ProviderSnapshot, tenant_id: str | None
    ) -> DriftFound | None:
        """Returns the drift of one subscription, None when there is none."""
        if tenant_id is None:
            return _unknown_customer(run, snapshot, unit.get(CATALOGUES, catalogue.CATALOGUE))
        id_ = subscriptions.subscription_id(self._name, snapshot.id)
        state = unit.get(SUBSCRIPTIONS, id_)
        before = state.subscription if state is not None else None
        try:
            after = _synced(unit, at, snapshot, tenant_id, self._name)
        except DomainError as error:
            account = unit.get(ACCOUNTS, tenant_id)
            if isinstance(error, UnknownPriceError) and account is not None:
                match _beyond_plans(account, snapshot):
                    case []:
                        return None
                    case [event]:
                        here, there = (None, "open") if isinstance(event, LeftoverFound) else ("open", "ended")
                        charge = (Difference(field="leftover", here=here, there=there),)
                        return _drift(
                            run, snapshot.id, DriftKind.DIFFERENT, tenant_id, id_, charge, repaired=run.repair
                        )
            # A sync cannot read it either: it waits in the sync queue until the catalogue has its price.
            unread = (Difference(field="unread", here=None, there=single_line(str(error))),)
            return _drift(run, snapshot.id, DriftKind.DIFFERENT, tenant_id, id_, unread)
        kind = reconciliation.drift_kind(before, after)
        if kind is None or after is None:
            return None
        differences = reconciliation.differences(before, after)
        return _drift(run, snapshot.id, kind, tenant_id, id_, differences, repaired=run.repair)


def _synced(
    unit: UnitOfWork, at: DecisionContext, snapshot: ProviderSnapshot, tenant_id: str, provider: str
) -> Subscription | None:
    """Returns the subscription after a sync of this snapshot; None when the sync would change nothing."""
    account, current = unit.get(ACCOUNTS, tenant_id), unit.get(CATALOGUES, catalogue.CATALOGUE)
    if account is None or current is None:
        return None
    state = unit.get(SUBSCRIPTIONS, subscriptions.subscription_id(provider, snapshot.id))
    events = subscriptions.sync(
        state,
        snapshot,
        tenant_id=tenant_id,
        provider=provider,
        pinned=subscriptions.pinned_plan(current, account, state, snapshot),
        failures=[],
        now=at.now,
        adopted=account.adopts is not None,
    )
    return events[-1].subscription if events else None


def _beyond_plans(account: Account, snapshot: ProviderSnapshot) -> Sequence[AccountEvent] | None:
    """Returns what a sync records about a subscription to no plan; None when a tenant that stays has it."""
    if account.is_gone:
        return leftovers.on_fetched(account, snapshot, LeftoverAction.REPORT, is_sold=False)
    return [] if snapshot.has_ended else None


def _drift_id(run_id: str, object_: str) -> str:
    """Returns the same id when the page is compared again."""
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
    **more: Any,
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
        **more,
    )


def _unknown_customer(run: Run, snapshot: ProviderSnapshot, current: Catalogue | None) -> DriftFound:
    """Returns the drift of a customer without an account, with the plan that the customer would have here."""
    more: dict[str, Any] = {"customer": snapshot.customer, "provider_status": snapshot.status}
    with suppress(UnknownPriceError):
        if current is not None:
            plan = subscriptions.first_plan_item(current, run.provider, snapshot.items)[0].plan
            more |= {"plan": plan.plan, "version": plan.version}
    return _drift(run, snapshot.id, DriftKind.UNKNOWN_CUSTOMER, **more)
