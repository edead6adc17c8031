"""The facts that this service hears, and the verb for each."""

from typing import Protocol

from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.tenant import (
    OffboardingStarted,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantSuspended,
)
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import Moment, Unit
from paybill_runtime.messaging.subscriptions import Hearing

from paybill_provisioner.domain import access, environments
from paybill_provisioner.domain.blueprints import IN_FORCE, in_force
from paybill_provisioner.domain.environments import Environment, EnvironmentEvent, id_of
from paybill_provisioner.tables import BLUEPRINTS, ENVIRONMENTS

HEARS = Hearing()


class _OfTenant(Protocol):
    @property
    def tenant_id(self) -> str: ...


def _writes(fact: _OfTenant) -> list[Key]:
    return [ENVIRONMENTS.key(id_of(fact.tenant_id))]


def _environment(unit: Unit, fact: _OfTenant) -> Environment | None:
    return unit.get(ENVIRONMENTS, id_of(fact.tenant_id))


def _record(unit: Unit, fact: _OfTenant, events: list[EnvironmentEvent]) -> None:
    unit.record(ENVIRONMENTS, id_of(fact.tenant_id), events)


@HEARS.fact(TenantRequested, writes=_writes)
def tenant_requested(unit: Unit, fact: TenantRequested, _: Moment) -> None:
    _record(unit, fact, environments.on_tenant_requested(_environment(unit, fact), fact))


@HEARS.fact(EntitlementsSet, writes=_writes, reads=lambda _: [BLUEPRINTS.key(IN_FORCE)])
def entitlements_set(unit: Unit, fact: EntitlementsSet, _: Moment) -> None:
    blueprint = in_force(unit.get(BLUEPRINTS, IN_FORCE))
    _record(unit, fact, environments.on_entitlements_set(_environment(unit, fact), fact, blueprint))


@HEARS.fact(TenantSuspended, writes=_writes)
def tenant_suspended(unit: Unit, fact: TenantSuspended, _: Moment) -> None:
    _record(unit, fact, access.on_tenant_suspended(_environment(unit, fact), fact))


@HEARS.fact(TenantReactivated, writes=_writes)
def tenant_reactivated(unit: Unit, fact: TenantReactivated, _: Moment) -> None:
    _record(unit, fact, access.on_tenant_reactivated(_environment(unit, fact), fact))


@HEARS.fact(OffboardingStarted, writes=_writes)
def offboarding_started(unit: Unit, fact: OffboardingStarted, _: Moment) -> None:
    _record(unit, fact, access.on_tenant_left(_environment(unit, fact), fact))


@HEARS.fact(TenantCancelled, writes=_writes)
def tenant_cancelled(unit: Unit, fact: TenantCancelled, _: Moment) -> None:
    _record(unit, fact, access.on_tenant_left(_environment(unit, fact), fact))
