"""Subscriptions of the service: each event and its verb in the domain."""

from typing import Protocol

from paybill_contracts.agent_runs import RunEnded
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.blueprints import BlueprintPublished
from paybill_contracts.environment_plans import EnvironmentChanged, EnvironmentReady
from paybill_contracts.provisioner import AccessChangeStarted, AccessClosed, AccessOpened
from paybill_contracts.tenant import (
    OffboardingStarted,
    ReturnStarted,
    TenantActivated,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantSuspended,
)
from paybill_contracts.tenant_lifecycle import PurgeStarted, TenantPurged, TenantQuarantined
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.messaging.subscriptions import Subscriptions

from paybill_agent_gateway.domain import budgets, bundles, tenants
from paybill_agent_gateway.domain.budgets import day_id
from paybill_agent_gateway.domain.tenants import AccessFact, LifecycleFact
from paybill_agent_gateway.tables import BLUEPRINTS, DAYS, TENANTS

HANDLERS = Subscriptions()


class _OfTenant(Protocol):
    @property
    def tenant_id(self) -> str: ...


def _writes(fact: _OfTenant) -> list[Key]:
    return [TENANTS.key(fact.tenant_id)]


@HANDLERS.fact(TenantRequested, writes=_writes)
def tenant_requested(unit: UnitOfWork, fact: TenantRequested, _: DecisionContext) -> None:
    known = unit.get(TENANTS, fact.tenant_id)
    unit.record(TENANTS, fact.tenant_id, tenants.on_tenant_requested(known, fact))


@HANDLERS.fact(EntitlementsSet, writes=_writes)
def entitlements_set(unit: UnitOfWork, fact: EntitlementsSet, _: DecisionContext) -> None:
    known = unit.get(TENANTS, fact.tenant_id)
    unit.record(TENANTS, fact.tenant_id, tenants.on_entitlements_set(known, fact))


@HANDLERS.fact(EnvironmentReady, writes=_writes)
def environment_ready(unit: UnitOfWork, fact: EnvironmentReady, _: DecisionContext) -> None:
    known = unit.get(TENANTS, fact.tenant_id)
    unit.record(TENANTS, fact.tenant_id, tenants.on_environment_ready(known, fact))


@HANDLERS.fact(EnvironmentChanged, writes=_writes)
def environment_changed(unit: UnitOfWork, fact: EnvironmentChanged, _: DecisionContext) -> None:
    known = unit.get(TENANTS, fact.tenant_id)
    unit.record(TENANTS, fact.tenant_id, tenants.on_environment_changed(known, fact))


def _access(unit: UnitOfWork, fact: AccessFact, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_access(unit.get(TENANTS, fact.tenant_id), fact))


HANDLERS.fact(AccessOpened, writes=_writes)(_access)
HANDLERS.fact(AccessClosed, writes=_writes)(_access)
HANDLERS.fact(AccessChangeStarted, writes=_writes)(_access)


@HANDLERS.fact(RunEnded, writes=lambda fact: [DAYS.key(day_id(fact.tenant_id, fact.started_at))])
def run_ended(unit: UnitOfWork, fact: RunEnded, _: DecisionContext) -> None:
    id_ = day_id(fact.tenant_id, fact.started_at)
    unit.record(DAYS, id_, budgets.on_run_ended(unit.get(DAYS, id_), fact))


def _lifecycle(unit: UnitOfWork, fact: LifecycleFact, _: DecisionContext) -> None:
    unit.record(TENANTS, fact.tenant_id, tenants.on_lifecycle(unit.get(TENANTS, fact.tenant_id), fact))


HANDLERS.fact(TenantActivated, writes=_writes)(_lifecycle)
HANDLERS.fact(TenantSuspended, writes=_writes)(_lifecycle)
HANDLERS.fact(TenantReactivated, writes=_writes)(_lifecycle)
HANDLERS.fact(TenantQuarantined, writes=_writes)(_lifecycle)
HANDLERS.fact(OffboardingStarted, writes=_writes)(_lifecycle)
HANDLERS.fact(TenantCancelled, writes=_writes)(_lifecycle)
HANDLERS.fact(ReturnStarted, writes=_writes)(_lifecycle)
HANDLERS.fact(PurgeStarted, writes=_writes)(_lifecycle)
HANDLERS.fact(TenantPurged, writes=_writes)(_lifecycle)


@HANDLERS.fact(BlueprintPublished, writes=lambda fact: [BLUEPRINTS.key(fact.content.name)])
def blueprint_published(unit: UnitOfWork, fact: BlueprintPublished, _: DecisionContext) -> None:
    name = fact.content.name
    unit.record(BLUEPRINTS, name, bundles.on_blueprint_published(unit.get(BLUEPRINTS, name), fact))
