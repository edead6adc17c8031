"""Subscriptions of the service: each event and its verb in the domain."""

from collections.abc import Sequence
from typing import Protocol

from paybill_contracts.agent_bundles import BundleActivated
from paybill_contracts.agents import AgentRegistered
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.changes import ChangeDiscarded, ChangeExpired, ChangeQuoted, ChangeRefused
from paybill_contracts.provisioner import AccessChangeStarted, RestorationStarted
from paybill_contracts.tenant import (
    HoldsChanged,
    LegalHoldPlaced,
    LegalHoldReleased,
    OffboardingStarted,
    ReturnStarted,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantSuspended,
)
from paybill_contracts.tenant_lifecycle import PurgeStarted, TenantQuarantined
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.messaging.subscriptions import Subscriptions

from paybill_provisioner.domain import access, agent_rights, agents, environments, planning, purging, quotes
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.environments import id_of
from paybill_provisioner.tables import (
    AGENT_RIGHTS,
    CELL_KEYS,
    ENVIRONMENTS,
    PLANNING_READS,
    plan_inputs,
    planning_states,
    record,
)

HANDLERS = Subscriptions()


class _OfTenant(Protocol):
    @property
    def tenant_id(self) -> str: ...


def _writes(fact: _OfTenant) -> list[Key]:
    return [ENVIRONMENTS.key(id_of(fact.tenant_id))]


def _environment(unit: UnitOfWork, fact: _OfTenant) -> Environment | None:
    return unit.get(ENVIRONMENTS, id_of(fact.tenant_id))


def _record(unit: UnitOfWork, fact: _OfTenant, events: Sequence[EnvironmentEvent]) -> None:
    record(unit, id_of(fact.tenant_id), events)


def _writes_of_planning(fact: _OfTenant) -> list[Key]:
    return [*_writes(fact), *CELL_KEYS]


@HANDLERS.fact(TenantRequested, writes=_writes)
def tenant_requested(unit: UnitOfWork, fact: TenantRequested, _: DecisionContext) -> None:
    _record(unit, fact, environments.on_tenant_requested(_environment(unit, fact), fact))


@HANDLERS.fact(EntitlementsSet, writes=_writes_of_planning, reads=lambda _: PLANNING_READS)
def entitlements_set(unit: UnitOfWork, fact: EntitlementsSet, at: DecisionContext) -> None:
    blueprints, cells, inputs = planning_states(unit)
    _record(unit, fact, planning.on_entitlements_set(_environment(unit, fact), fact, blueprints, cells, at.now, inputs))


@HANDLERS.fact(TenantSuspended, writes=_writes)
def tenant_suspended(unit: UnitOfWork, fact: TenantSuspended, _: DecisionContext) -> None:
    _record(unit, fact, access.on_tenant_suspended(_environment(unit, fact), fact))


@HANDLERS.fact(TenantQuarantined, writes=_writes)
def tenant_quarantined(unit: UnitOfWork, fact: TenantQuarantined, _: DecisionContext) -> None:
    _record(unit, fact, access.on_tenant_quarantined(_environment(unit, fact), fact))


@HANDLERS.fact(TenantReactivated, writes=_writes)
def tenant_reactivated(unit: UnitOfWork, fact: TenantReactivated, _: DecisionContext) -> None:
    _record(unit, fact, access.on_tenant_reactivated(_environment(unit, fact), fact))


@HANDLERS.fact(HoldsChanged, writes=_writes)
def holds_changed(unit: UnitOfWork, fact: HoldsChanged, _: DecisionContext) -> None:
    _record(unit, fact, access.on_holds_changed(_environment(unit, fact), fact))


@HANDLERS.fact(ReturnStarted, writes=_writes_of_planning, reads=lambda _: PLANNING_READS)
def return_started(unit: UnitOfWork, fact: ReturnStarted, at: DecisionContext) -> None:
    blueprints, cells, inputs = planning_states(unit)
    _record(unit, fact, access.on_return_started(_environment(unit, fact), fact, blueprints, cells, at.now, inputs))


@HANDLERS.fact(OffboardingStarted, writes=_writes)
def offboarding_started(unit: UnitOfWork, fact: OffboardingStarted, _: DecisionContext) -> None:
    _record(unit, fact, planning.on_leaving(_environment(unit, fact)))
    _record(unit, fact, access.on_tenant_left(_environment(unit, fact), fact))


@HANDLERS.fact(TenantCancelled, writes=_writes)
def tenant_cancelled(unit: UnitOfWork, fact: TenantCancelled, _: DecisionContext) -> None:
    _record(unit, fact, planning.on_leaving(_environment(unit, fact)))
    _record(unit, fact, access.on_tenant_left(_environment(unit, fact), fact))


@HANDLERS.fact(PurgeStarted, writes=_writes_of_planning, reads=lambda _: PLANNING_READS)
def purge_started(unit: UnitOfWork, fact: PurgeStarted, at: DecisionContext) -> None:
    _record(unit, fact, purging.on_purge_started(_environment(unit, fact), fact, plan_inputs(unit), at.now))


@HANDLERS.fact(LegalHoldPlaced, writes=_writes)
def legal_hold_placed(unit: UnitOfWork, fact: LegalHoldPlaced, _: DecisionContext) -> None:
    _record(unit, fact, purging.on_legal_hold_placed(_environment(unit, fact), fact))


@HANDLERS.fact(LegalHoldReleased, writes=_writes_of_planning, reads=lambda _: PLANNING_READS)
def legal_hold_released(unit: UnitOfWork, fact: LegalHoldReleased, at: DecisionContext) -> None:
    _record(unit, fact, purging.on_legal_hold_released(_environment(unit, fact), fact, plan_inputs(unit), at.now))


@HANDLERS.fact(ChangeQuoted, writes=_writes)
def change_quoted(unit: UnitOfWork, fact: ChangeQuoted, _: DecisionContext) -> None:
    _record(unit, fact, quotes.on_change_quoted(_environment(unit, fact), fact))


@HANDLERS.fact(ChangeDiscarded, writes=_writes)
def change_discarded(unit: UnitOfWork, fact: ChangeDiscarded, _: DecisionContext) -> None:
    _record(unit, fact, quotes.on_change_ended(_environment(unit, fact), fact))


@HANDLERS.fact(ChangeExpired, writes=_writes)
def change_expired(unit: UnitOfWork, fact: ChangeExpired, _: DecisionContext) -> None:
    _record(unit, fact, quotes.on_change_ended(_environment(unit, fact), fact))


@HANDLERS.fact(ChangeRefused, writes=_writes)
def change_refused(unit: UnitOfWork, fact: ChangeRefused, _: DecisionContext) -> None:
    _record(unit, fact, quotes.on_change_ended(_environment(unit, fact), fact))


@HANDLERS.fact(AgentRegistered, writes=_writes_of_planning, reads=lambda _: PLANNING_READS)
def agent_registered(unit: UnitOfWork, fact: AgentRegistered, at: DecisionContext) -> None:
    blueprints, cells, inputs = planning_states(unit)
    _record(unit, fact, agents.on_agent_registered(_environment(unit, fact), fact, blueprints, cells, at.now, inputs))


@HANDLERS.fact(BundleActivated, writes=lambda fact: [AGENT_RIGHTS.key(fact.blueprint)])
def bundle_activated(unit: UnitOfWork, fact: BundleActivated, _: DecisionContext) -> None:
    events = agent_rights.on_bundle_activated(unit.get(AGENT_RIGHTS, fact.blueprint), fact)
    unit.record(AGENT_RIGHTS, fact.blueprint, events)


@HANDLERS.fact(AccessChangeStarted)
def access_change_started(_: UnitOfWork, __: AccessChangeStarted, ___: DecisionContext) -> None:
    """Marks the place of the service's own fact in the log: its job waits for it before it opens access."""


@HANDLERS.fact(RestorationStarted)
def restoration_started(_: UnitOfWork, __: RestorationStarted, ___: DecisionContext) -> None:
    """Marks the place of the service's own fact in the log, as above."""
