"""Subscriptions of the service: each event and intake event with its handler."""

from uuid import UUID

from paybill_contracts.agent_runs import RunEnded
from paybill_contracts.billing import (
    AccountAdopted,
    AccountOpened,
    EntitlementsSet,
    SubscriptionActivated,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionFact,
    SubscriptionGraceStarted,
    SubscriptionPaused,
    SubscriptionRecovered,
    SubscriptionSuspended,
)
from paybill_contracts.blueprints import BlueprintPublished
from paybill_contracts.envelope import IntakeEvent
from paybill_contracts.incidents import Evidence, Finding
from paybill_contracts.licences import LicenceRevoked, RevocationOrigin
from paybill_contracts.provisioner import EnvironmentChangePending, EnvironmentChangeSettled
from paybill_contracts.tenant import OffboardingStarted, ReturnRuledOut, ReturnStarted, TenantCancelled, TenantRequested
from paybill_contracts.usage import Usage
from paybill_licence import MAX_SEATS
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.messaging.subscriptions import Subscriptions

from paybill_billing.catalogue.domain import catalogue, tiers
from paybill_billing.catalogue.tables import CATALOGUES, TIERS
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.incidents import INCIDENTS
from paybill_billing.licences.domain import licences, revocations
from paybill_billing.licences.tables import LICENCES, REVOCATION_LISTS
from paybill_billing.providers import domain as providers
from paybill_billing.providers.tables import PROVIDERS
from paybill_billing.subscriptions.domain import accounts, trials
from paybill_billing.subscriptions.tables import ACCOUNTS, SUBSCRIPTIONS, TRIALS
from paybill_billing.usage.domain import agent_actions, billing_periods, publishers, usage
from paybill_billing.usage.tables import BILLING_PERIODS, DISTINCT_SETS, METERS, PUBLISHERS
from paybill_billing.webhooks import domain as webhooks
from paybill_billing.webhooks.tables import DISMISSED_CUSTOMERS

HANDLERS = Subscriptions()

LICENCE_SEATS = "licence_seats"
"""The kind of incident of a licence with fewer seats than are paid."""
_CATALOGUE = CATALOGUES.key(catalogue.CATALOGUE)
_REVOCATIONS = REVOCATION_LISTS.key(revocations.REVOCATIONS)
_TIERS = TIERS.key(tiers.TIERS)
_PROVIDERS = PROVIDERS.key(providers.PROVIDERS)
_PUBLISHERS = PUBLISHERS.key(publishers.PUBLISHERS)


@HANDLERS.fact(BlueprintPublished, writes=lambda _: [_TIERS])
def blueprint_published(unit: UnitOfWork, fact: BlueprintPublished, _: DecisionContext) -> None:
    unit.record(TIERS, tiers.TIERS, tiers.on_blueprint_published(unit.get(TIERS, tiers.TIERS), fact))


class CatalogueMissingError(Exception):
    """Raised while no catalogue is published; the event goes to the retry queue."""


class ProvidersMissingError(Exception):
    """Raised while no provider is configured; the event goes to the retry queue."""


def _catalogue(unit: UnitOfWork) -> catalogue.Catalogue:
    current = unit.get(CATALOGUES, catalogue.CATALOGUE)
    if current is None:
        raise CatalogueMissingError("no catalogue is published yet")
    return current


@HANDLERS.fact(
    TenantRequested,
    writes=lambda fact: [ACCOUNTS.key(fact.tenant_id), TRIALS.key(trials.trial_id(fact))],
    reads=lambda _: [_CATALOGUE, _PROVIDERS],
)
def tenant_requested(unit: UnitOfWork, fact: TenantRequested, at: DecisionContext) -> None:
    account, choice = unit.get(ACCOUNTS, fact.tenant_id), unit.get(PROVIDERS, providers.PROVIDERS)
    if choice is None:
        raise ProvidersMissingError("no provider is configured yet")
    trial_id = trials.trial_id(fact)
    trial = unit.get(TRIALS, trial_id)
    may_claim = account is None and catalogue.on_sale(_catalogue(unit), fact.plan).trial_days > 0
    claimed = trials.claim(trial, fact, at.now) if may_claim else []
    registered = accounts.on_tenant_requested(
        account,
        _catalogue(unit),
        choice,
        fact,
        has_trial=trials.is_free(trial, fact, at.now),
        trial_id=trial_id if claimed else None,
    )
    unit.record(ACCOUNTS, fact.tenant_id, registered)
    unit.record(TRIALS, trial_id, claimed)


def _tenant_leaving(
    unit: UnitOfWork, fact: OffboardingStarted | TenantCancelled | ReturnRuledOut, _: DecisionContext
) -> None:
    account = unit.get(ACCOUNTS, fact.tenant_id)
    unit.record(ACCOUNTS, fact.tenant_id, accounts.on_tenant_leaving(account, fact))


HANDLERS.fact(OffboardingStarted, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)])(_tenant_leaving)
HANDLERS.fact(TenantCancelled, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)])(_tenant_leaving)
HANDLERS.fact(ReturnRuledOut, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)])(_tenant_leaving)


@HANDLERS.fact(ReturnStarted, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)])
def return_started(unit: UnitOfWork, fact: ReturnStarted, _: DecisionContext) -> None:
    unit.record(ACCOUNTS, fact.tenant_id, accounts.on_tenant_returning(unit.get(ACCOUNTS, fact.tenant_id)))


def _environment_change(
    unit: UnitOfWork, fact: EnvironmentChangePending | EnvironmentChangeSettled, _: DecisionContext
) -> None:
    account = unit.get(ACCOUNTS, fact.tenant_id)
    unit.record(ACCOUNTS, fact.tenant_id, accounts.on_environment_change(account, fact))


HANDLERS.fact(EnvironmentChangePending, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)])(_environment_change)
HANDLERS.fact(EnvironmentChangeSettled, writes=lambda fact: [ACCOUNTS.key(fact.tenant_id)])(_environment_change)


def _licence_of(fact: EntitlementsSet | SubscriptionFact) -> list[Key]:
    id_ = licences.licence_id(fact.subscription_id)
    return [LICENCES.key(id_), INCIDENTS.key_of(LICENCE_SEATS, f"licence/{id_}")]


def _access_of(fact: EntitlementsSet | SubscriptionFact) -> list[Key]:
    return [ENTITLEMENTS.key(fact.tenant_id), SUBSCRIPTIONS.key(fact.subscription_id)]


def _update_licence(unit: UnitOfWork, fact: EntitlementsSet | SubscriptionFact, at: DecisionContext) -> None:
    """Updates the licence after a change of its subscription or of the entitlements."""
    id_ = licences.licence_id(fact.subscription_id)
    state = unit.get(SUBSCRIPTIONS, fact.subscription_id)
    subscription = state.subscription if state is not None else None
    granted = unit.get(ENTITLEMENTS, fact.tenant_id)
    licence = unit.get(LICENCES, id_)
    unit.record(LICENCES, id_, licences.on_subscription_changed(licence, granted, subscription, at.now))
    if licences.lacks_seats(licence, subscription) and subscription is not None:
        finding = Finding(
            kind=LICENCE_SEATS,
            subject=f"licence/{id_}",
            summary=f"{id_} has {MAX_SEATS} seats, the most of one licence, and {subscription.quantity} are paid",
            evidence=(Evidence(name="quantity", value=str(subscription.quantity)),),
            tenant_id=fact.tenant_id,
            command=f"paybill licence show {id_}",
        )
        INCIDENTS.open(unit, finding, at.now)
    else:
        INCIDENTS.close(unit, LICENCE_SEATS, f"licence/{id_}", "the licence has all seats that are paid", at.now)


def _licence_and_period_of(fact: SubscriptionFact) -> list[Key]:
    return [*_licence_of(fact), BILLING_PERIODS.key(fact.tenant_id)]


def _update_licence_and_period(unit: UnitOfWork, fact: SubscriptionFact, at: DecisionContext) -> None:
    _update_licence(unit, fact, at)
    _update_period(unit, fact, at)


def _update_period(unit: UnitOfWork, fact: SubscriptionFact, at: DecisionContext) -> None:
    """Updates the billing period, which decides when usage is reported."""
    period = unit.get(BILLING_PERIODS, fact.tenant_id)
    unit.record(BILLING_PERIODS, fact.tenant_id, billing_periods.on_subscription(period, fact.subscription, at.now))


def _plans_and_subscriptions(fact: SubscriptionSuspended) -> list[Key]:
    ids = [fact.subscription_id] if fact.instead is None else [fact.subscription_id, fact.instead]
    return [_CATALOGUE, *map(SUBSCRIPTIONS.key, ids)]


@HANDLERS.fact(
    SubscriptionSuspended,
    writes=lambda fact: [ENTITLEMENTS.key(fact.tenant_id), *_licence_and_period_of(fact)],
    reads=_plans_and_subscriptions,
)
def subscription_suspended(unit: UnitOfWork, fact: SubscriptionSuspended, at: DecisionContext) -> None:
    """Updates the entitlements after a timer suspended a subscription. A sync updates both in one decision.

    The subscription may have recovered since: its current state decides.
    """
    state = unit.get(SUBSCRIPTIONS, fact.subscription_id)
    subscription = state.subscription if state is not None else fact.subscription
    current, pinned = _catalogue(unit), subscription.plan
    plan = catalogue.published(current, pinned.plan, pinned.version).plan
    other = unit.get(SUBSCRIPTIONS, fact.instead) if fact.instead is not None else None
    fallback = entitlements.fallback_of([other.subscription] if other is not None else [], current)
    before = unit.get(ENTITLEMENTS, fact.tenant_id)
    applied = entitlements.apply_subscription(before, subscription, plan, at.now, fallback)
    unit.record(ENTITLEMENTS, fact.tenant_id, applied)
    _update_licence_and_period(unit, fact, at)


HANDLERS.fact(EntitlementsSet, writes=_licence_of, reads=_access_of)(_update_licence)
HANDLERS.fact(SubscriptionActivated, writes=lambda fact: [BILLING_PERIODS.key(fact.tenant_id)])(_update_period)
HANDLERS.fact(SubscriptionPaused, writes=_licence_and_period_of, reads=_access_of)(_update_licence_and_period)
HANDLERS.fact(SubscriptionChanged, writes=_licence_and_period_of, reads=_access_of)(_update_licence_and_period)
HANDLERS.fact(SubscriptionGraceStarted, writes=_licence_and_period_of, reads=_access_of)(_update_licence_and_period)
HANDLERS.fact(SubscriptionRecovered, writes=_licence_and_period_of, reads=_access_of)(_update_licence_and_period)


@HANDLERS.fact(SubscriptionEnded, writes=_licence_and_period_of)
def subscription_ended(unit: UnitOfWork, fact: SubscriptionEnded, at: DecisionContext) -> None:
    id_ = licences.licence_id(fact.subscription_id)
    revoked = licences.revoke(
        unit.get(LICENCES, id_), "the subscription has ended", RevocationOrigin.SUBSCRIPTION_ENDED
    )
    unit.record(LICENCES, id_, revoked)
    _update_period(unit, fact, at)


@HANDLERS.fact(LicenceRevoked, writes=lambda _: [_REVOCATIONS])
def licence_revoked(unit: UnitOfWork, fact: LicenceRevoked, at: DecisionContext) -> None:
    known = unit.get(REVOCATION_LISTS, revocations.REVOCATIONS)
    unit.record(REVOCATION_LISTS, revocations.REVOCATIONS, revocations.on_licence_revoked(known, fact, at.now))


def _meter_of(used: Usage) -> list[Key]:
    """Returns the meter, and the shard of its distinct-count set."""
    shard = usage.shard_of(used)
    meter = METERS.key(usage.meter_id(used.tenant_id, used.meter))
    return [meter] if shard is None else [meter, DISTINCT_SETS.key(shard)]


def _plan_of(used: Usage | RunEnded) -> list[Key]:
    """Returns the states on which counting depends."""
    tenant = used.tenant_id
    return [ACCOUNTS.key(tenant), ENTITLEMENTS.key(tenant), BILLING_PERIODS.key(tenant), _CATALOGUE]


def _plan(unit: UnitOfWork, tenant_id: str) -> usage.Plan:
    return usage.Plan(
        account=unit.get(ACCOUNTS, tenant_id),
        entitlements=unit.get(ENTITLEMENTS, tenant_id),
        catalogue=_catalogue(unit),
        period=unit.get(BILLING_PERIODS, tenant_id),
    )


@HANDLERS.intake(Usage, writes=_meter_of, reads=lambda used: [*_plan_of(used), _PUBLISHERS])
def usage_recorded(unit: UnitOfWork, submission: IntakeEvent, at: DecisionContext) -> None:
    used = submission.event
    if not isinstance(used, Usage):
        raise TypeError(f"{used.TYPE} is not a usage event")
    publishers.require_grant(unit.get(PUBLISHERS, publishers.PUBLISHERS), submission.publisher, used.tenant_id)
    id_, shard = usage.meter_id(used.tenant_id, used.meter), usage.shard_of(used)
    counted = usage.record(
        unit.get(METERS, id_),
        unit.get(DISTINCT_SETS, shard) if shard is not None else None,
        used,
        usage_id=submission.id,
        publisher=submission.publisher,
        plan=_plan(unit, used.tenant_id),
        arrived=submission.time,
        now=at.now,
    )
    unit.record(METERS, id_, counted.on_meter)
    if shard is not None:
        unit.record(DISTINCT_SETS, shard, counted.on_distinct_set)


def _agent_actions_of(fact: RunEnded) -> list[Key]:
    return [METERS.key(usage.meter_id(fact.tenant_id, agent_actions.METER))]


@HANDLERS.fact(RunEnded, writes=_agent_actions_of, reads=_plan_of)
def run_ended(unit: UnitOfWork, fact: RunEnded, at: DecisionContext) -> None:
    id_ = usage.meter_id(fact.tenant_id, agent_actions.METER)
    counted = agent_actions.on_run_ended(
        unit.get(METERS, id_),
        fact,
        _plan(unit, fact.tenant_id),
        usage_id=str(UUID(at.id, version=5)),
        now=at.now,
    )
    unit.record(METERS, id_, counted)


def _account_opened(unit: UnitOfWork, fact: AccountOpened | AccountAdopted, _: DecisionContext) -> None:
    id_ = webhooks.customer_key(fact.provider, fact.customer)
    unit.record(DISMISSED_CUSTOMERS, id_, webhooks.on_account_opened(unit.get(DISMISSED_CUSTOMERS, id_), fact))


def _dismissed_customer_of(fact: AccountOpened | AccountAdopted) -> list[Key]:
    return [DISMISSED_CUSTOMERS.key(webhooks.customer_key(fact.provider, fact.customer))]


HANDLERS.fact(AccountOpened, writes=_dismissed_customer_of)(_account_opened)
HANDLERS.fact(AccountAdopted, writes=_dismissed_customer_of)(_account_opened)
