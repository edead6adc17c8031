"""The facts that this service hears, and the verb for each."""

from typing import Protocol

from paybill_contracts.billing import (
    AccountRegistered,
    SubscriptionActivated,
    SubscriptionEnded,
    SubscriptionPaused,
    SubscriptionRecovered,
    SubscriptionSuspended,
)
from paybill_contracts.catalogue import CataloguePublished
from paybill_contracts.providers import ProvidersConfigured
from paybill_contracts.provisioner import (
    BlueprintPublished,
    EnvironmentFailed,
    EnvironmentPlanned,
    EnvironmentReady,
    EnvironmentRetained,
)
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import Moment, Unit
from paybill_runtime.messaging.subscriptions import Hearing

from paybill_tenant.domain import offerings, tenants
from paybill_tenant.domain.offerings import PAYMENTS, PLANS, REGIONS
from paybill_tenant.domain.tenants import Tenant, existing
from paybill_tenant.tables import OFFERINGS, TENANTS

HEARS = Hearing()


class _OfTenant(Protocol):
    @property
    def tenant_id(self) -> str: ...


def _writes(fact: _OfTenant) -> list[Key]:
    return [TENANTS.key(fact.tenant_id)]


def _tenant(unit: Unit, fact: _OfTenant) -> Tenant:
    return existing(unit.get(TENANTS, fact.tenant_id), fact.tenant_id)


@HEARS.fact(CataloguePublished, writes=lambda _: [OFFERINGS.key(PLANS)])
def catalogue_published(unit: Unit, fact: CataloguePublished, _: Moment) -> None:
    unit.record(OFFERINGS, PLANS, offerings.on_catalogue_published(unit.get(OFFERINGS, PLANS), fact))


@HEARS.fact(BlueprintPublished, writes=lambda _: [OFFERINGS.key(REGIONS)])
def blueprint_published(unit: Unit, fact: BlueprintPublished, _: Moment) -> None:
    unit.record(OFFERINGS, REGIONS, offerings.on_blueprint_published(unit.get(OFFERINGS, REGIONS), fact))


@HEARS.fact(ProvidersConfigured, writes=lambda _: [OFFERINGS.key(PAYMENTS)])
def providers_configured(unit: Unit, fact: ProvidersConfigured, _: Moment) -> None:
    unit.record(OFFERINGS, PAYMENTS, offerings.on_providers_configured(unit.get(OFFERINGS, PAYMENTS), fact))


@HEARS.fact(AccountRegistered, writes=_writes)
def account_registered(unit: Unit, fact: AccountRegistered, _: Moment) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_account_registered(_tenant(unit, fact), fact))


@HEARS.fact(EnvironmentPlanned, writes=_writes)
def environment_planned(unit: Unit, fact: EnvironmentPlanned, _: Moment) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_environment_planned(_tenant(unit, fact), fact))


@HEARS.fact(EnvironmentFailed, writes=_writes)
def environment_failed(unit: Unit, fact: EnvironmentFailed, _: Moment) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_environment_failed(_tenant(unit, fact), fact))


@HEARS.fact(EnvironmentReady, writes=_writes)
def environment_ready(unit: Unit, fact: EnvironmentReady, _: Moment) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_environment_ready(_tenant(unit, fact), fact))


@HEARS.fact(EnvironmentRetained, writes=_writes)
def environment_retained(unit: Unit, fact: EnvironmentRetained, _: Moment) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_environment_retained(_tenant(unit, fact), fact))


@HEARS.fact(SubscriptionSuspended, writes=_writes)
def subscription_suspended(unit: Unit, fact: SubscriptionSuspended, _: Moment) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_subscription_suspended(_tenant(unit, fact), fact))


@HEARS.fact(SubscriptionPaused, writes=_writes)
def subscription_paused(unit: Unit, fact: SubscriptionPaused, _: Moment) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_subscription_suspended(_tenant(unit, fact), fact))


@HEARS.fact(SubscriptionRecovered, writes=_writes)
def subscription_recovered(unit: Unit, fact: SubscriptionRecovered, _: Moment) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_subscription_recovered(_tenant(unit, fact)))


@HEARS.fact(SubscriptionActivated, writes=_writes)
def subscription_activated(unit: Unit, fact: SubscriptionActivated, _: Moment) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_subscription_recovered(_tenant(unit, fact)))


@HEARS.fact(SubscriptionEnded, writes=_writes)
def subscription_ended(unit: Unit, fact: SubscriptionEnded, at: Moment) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_subscription_ended(_tenant(unit, fact), fact, at.now))
