"""Subscriptions of the service: each event and its verb in the domain."""

from typing import Protocol

from paybill_contracts.accounts import AccountClosed, DebtChanged, LeftoverEnded, LeftoverFound
from paybill_contracts.billing import (
    AccountRegistered,
    CancellationRequested,
    EntitlementsSet,
    SubscriptionActivated,
    SubscriptionEnded,
    SubscriptionGraceStarted,
    SubscriptionPaused,
    SubscriptionRecovered,
    SubscriptionSuspended,
)
from paybill_contracts.blueprints import BlueprintPublished
from paybill_contracts.catalogue import CataloguePublished
from paybill_contracts.environment_plans import EnvironmentChanged, EnvironmentPlanned, EnvironmentReady
from paybill_contracts.incidents import (
    BillingIncidentAssigned,
    BillingIncidentClosed,
    BillingIncidentOpened,
    IncidentAssigned,
    IncidentClosed,
    IncidentOpened,
    ProvisionerIncidentAssigned,
    ProvisionerIncidentClosed,
    ProvisionerIncidentOpened,
    TenantIncidentAssigned,
    TenantIncidentClosed,
    TenantIncidentOpened,
)
from paybill_contracts.plan_approvals import (
    ApprovalRejected,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoid,
    PlanSuperseded,
)
from paybill_contracts.providers import ProvidersConfigured
from paybill_contracts.provisioner import EnvironmentFailed, EnvironmentRetained
from paybill_contracts.purges import DeletionStopped, EnvironmentPurged
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.messaging.subscriptions import Subscriptions

from paybill_tenant.domain import (
    access,
    environments,
    incidents,
    offboarding,
    policies,
    purging,
    signup_options,
    tenants,
)
from paybill_tenant.domain.policies import POLICY
from paybill_tenant.domain.signup_options import PAYMENTS, PLANS, REGIONS
from paybill_tenant.domain.tenants import Tenant, existing
from paybill_tenant.tables import POLICIES, SIGNUP_OPTIONS, TENANTS

HANDLERS = Subscriptions()


class _OfTenant(Protocol):
    @property
    def tenant_id(self) -> str: ...


def _writes(fact: _OfTenant) -> list[Key]:
    return [TENANTS.key(fact.tenant_id)]


def _tenant(unit: UnitOfWork, fact: _OfTenant) -> Tenant:
    return existing(unit.get(TENANTS, fact.tenant_id), fact.tenant_id)


@HANDLERS.fact(CataloguePublished, writes=lambda _: [SIGNUP_OPTIONS.key(PLANS)])
def catalogue_published(unit: UnitOfWork, fact: CataloguePublished, _: DecisionContext) -> None:
    known = unit.get(SIGNUP_OPTIONS, PLANS)
    unit.record(SIGNUP_OPTIONS, PLANS, signup_options.on_catalogue_published(known, fact))


@HANDLERS.fact(BlueprintPublished, writes=lambda _: [SIGNUP_OPTIONS.key(REGIONS)])
def blueprint_published(unit: UnitOfWork, fact: BlueprintPublished, _: DecisionContext) -> None:
    known = unit.get(SIGNUP_OPTIONS, REGIONS)
    unit.record(SIGNUP_OPTIONS, REGIONS, signup_options.on_blueprint_published(known, fact))


@HANDLERS.fact(ProvidersConfigured, writes=lambda _: [SIGNUP_OPTIONS.key(PAYMENTS)])
def providers_configured(unit: UnitOfWork, fact: ProvidersConfigured, _: DecisionContext) -> None:
    unit.record(
        SIGNUP_OPTIONS, PAYMENTS, signup_options.on_providers_configured(unit.get(SIGNUP_OPTIONS, PAYMENTS), fact)
    )


@HANDLERS.fact(AccountRegistered, writes=_writes)
def account_registered(unit: UnitOfWork, fact: AccountRegistered, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_account_registered(_tenant(unit, fact), fact))


@HANDLERS.fact(EnvironmentPlanned, writes=_writes)
def environment_planned(unit: UnitOfWork, fact: EnvironmentPlanned, at: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, environments.on_environment_planned(_tenant(unit, fact), fact, at.now))


@HANDLERS.fact(EnvironmentFailed, writes=_writes)
def environment_failed(unit: UnitOfWork, fact: EnvironmentFailed, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, environments.on_environment_failed(_tenant(unit, fact), fact))


@HANDLERS.fact(EnvironmentReady, writes=_writes)
def environment_ready(unit: UnitOfWork, fact: EnvironmentReady, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, environments.on_environment_ready(_tenant(unit, fact), fact))


@HANDLERS.fact(EnvironmentRetained, writes=_writes)
def environment_retained(unit: UnitOfWork, fact: EnvironmentRetained, at: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, offboarding.on_environment_retained(_tenant(unit, fact), fact, at.now))


@HANDLERS.fact(EnvironmentChanged, writes=_writes)
def environment_changed(unit: UnitOfWork, fact: EnvironmentChanged, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, environments.on_change_ended(_tenant(unit, fact), fact.plan_hash))


@HANDLERS.fact(PlanSuperseded, writes=_writes)
def plan_superseded(unit: UnitOfWork, fact: PlanSuperseded, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, environments.on_change_ended(_tenant(unit, fact), fact.plan_hash))


@HANDLERS.fact(ApprovalRequested, writes=_writes)
def approval_requested(unit: UnitOfWork, fact: ApprovalRequested, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, environments.on_approval_requested(_tenant(unit, fact), fact))


def _settled(unit: UnitOfWork, fact: ApprovalUsed | ApprovalRejected | ApprovalVoid, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, environments.on_approval_settled(_tenant(unit, fact), fact))


HANDLERS.fact(ApprovalUsed, writes=_writes)(_settled)
HANDLERS.fact(ApprovalRejected, writes=_writes)(_settled)
HANDLERS.fact(ApprovalVoid, writes=_writes)(_settled)


@HANDLERS.fact(DeletionStopped, writes=_writes)
def deletion_stopped(unit: UnitOfWork, fact: DeletionStopped, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, purging.on_deletion_stopped(_tenant(unit, fact), fact))


@HANDLERS.fact(EnvironmentPurged, writes=_writes)
def environment_purged(unit: UnitOfWork, fact: EnvironmentPurged, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, purging.on_environment_purged(_tenant(unit, fact), fact))


@HANDLERS.fact(SubscriptionSuspended, writes=_writes)
def subscription_suspended(unit: UnitOfWork, fact: SubscriptionSuspended, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, access.on_subscription_suspended(_tenant(unit, fact), fact))


@HANDLERS.fact(SubscriptionPaused, writes=_writes)
def subscription_paused(unit: UnitOfWork, fact: SubscriptionPaused, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, access.on_subscription_suspended(_tenant(unit, fact), fact))


@HANDLERS.fact(SubscriptionRecovered, writes=_writes)
def subscription_recovered(unit: UnitOfWork, fact: SubscriptionRecovered, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, access.on_subscription_entitling(_tenant(unit, fact)))


@HANDLERS.fact(SubscriptionActivated, writes=_writes)
def subscription_activated(unit: UnitOfWork, fact: SubscriptionActivated, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, access.on_subscription_entitling(_tenant(unit, fact)))


@HANDLERS.fact(SubscriptionGraceStarted, writes=_writes)
def subscription_grace_started(unit: UnitOfWork, fact: SubscriptionGraceStarted, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, access.on_subscription_entitling(_tenant(unit, fact)))


@HANDLERS.fact(SubscriptionEnded, writes=_writes, reads=lambda _: [POLICIES.key(POLICY)])
def subscription_ended(unit: UnitOfWork, fact: SubscriptionEnded, at: DecisionContext) -> None:
    policy = policies.existing(unit.get(POLICIES, POLICY))
    ended = offboarding.on_subscription_ended(_tenant(unit, fact), fact, policy, at.now)
    unit.record(TENANTS, fact.tenant_id, ended)


@HANDLERS.fact(EntitlementsSet, writes=_writes)
def entitlements_set(unit: UnitOfWork, fact: EntitlementsSet, at: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, access.on_entitlements_set(_tenant(unit, fact), fact, at.now))


@HANDLERS.fact(AccountClosed, writes=_writes)
def account_closed(unit: UnitOfWork, fact: AccountClosed, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, offboarding.on_account_closed(_tenant(unit, fact)))


@HANDLERS.fact(CancellationRequested, writes=_writes)
def cancellation_requested(unit: UnitOfWork, fact: CancellationRequested, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, offboarding.on_account_closed(_tenant(unit, fact)))


@HANDLERS.fact(LeftoverFound, writes=_writes)
def leftover_found(unit: UnitOfWork, fact: LeftoverFound, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, offboarding.on_leftover_found(_tenant(unit, fact), fact))


@HANDLERS.fact(LeftoverEnded, writes=_writes)
def leftover_ended(unit: UnitOfWork, fact: LeftoverEnded, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, offboarding.on_leftover_ended(_tenant(unit, fact), fact))


@HANDLERS.fact(DebtChanged, writes=_writes)
def debt_changed(unit: UnitOfWork, fact: DebtChanged, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, access.on_debt_changed(_tenant(unit, fact), fact))


def _of_incident(fact: IncidentOpened | IncidentAssigned | IncidentClosed) -> list[Key]:
    return [TENANTS.key(fact.tenant_id)] if fact.tenant_id is not None else []


def _incident(unit: UnitOfWork, fact: IncidentOpened | IncidentAssigned | IncidentClosed, _: DecisionContext) -> None:
    if fact.tenant_id is not None:
        unit.record(TENANTS, fact.tenant_id, incidents.on_incident(unit.get(TENANTS, fact.tenant_id), fact))


HANDLERS.fact(BillingIncidentOpened, writes=_of_incident)(_incident)
HANDLERS.fact(BillingIncidentAssigned, writes=_of_incident)(_incident)
HANDLERS.fact(BillingIncidentClosed, writes=_of_incident)(_incident)
HANDLERS.fact(ProvisionerIncidentOpened, writes=_of_incident)(_incident)
HANDLERS.fact(ProvisionerIncidentAssigned, writes=_of_incident)(_incident)
HANDLERS.fact(ProvisionerIncidentClosed, writes=_of_incident)(_incident)
HANDLERS.fact(TenantIncidentOpened, writes=_of_incident)(_incident)
HANDLERS.fact(TenantIncidentAssigned, writes=_of_incident)(_incident)
HANDLERS.fact(TenantIncidentClosed, writes=_of_incident)(_incident)
