"""An environment in every status, and the events and outputs that lead there."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from blueprint_samples import blueprint_of, cells_of, published, tier_blueprint
from paybill_contracts.billing import EntitlementsSet
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.environment_plans import Resource
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import Access, Export
from paybill_contracts.tenant import (
    Hold,
    HoldOrigin,
    HoldsChanged,
    OffboardingStarted,
    ReturnStarted,
    Source,
    SuspensionMode,
    TenantCancelled,
    TenantReactivated,
    TenantRequested,
    TenantSuspended,
)
from paybill_provisioner.domain import access, building, environments, planning
from paybill_provisioner.domain.building import Progress
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.environments import evolve

NUMBER = "0123456789abcdef0123456789abcdef"
TENANT = f"ten_{NUMBER}"
HASH = "ab" * 32
ENVIRONMENT_ID = f"env_{NUMBER}"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
CONTENT = blueprint_of(tier_blueprint("starter", Preset.POOLED), tier_blueprint("business", Preset.SILO, 50))
BLUEPRINT = published(CONTENT)
CELLS = cells_of(CONTENT)
REQUESTED = TenantRequested(
    tenant_id=TENANT,
    slug="acme",
    name="Acme",
    plan="starter",
    region="eu-central",
    contact_email=Personal[str](key=f"tenant/{TENANT}", sealed="A" * 60),
    source=Source.API,
)
BLOCKED = TenantSuspended(
    tenant_id=TENANT,
    mode=SuspensionMode.BLOCKED,
    holds=(Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason="unpaid"),),
)
CHANGED_HOLDS = HoldsChanged(tenant_id=TENANT, holds=BLOCKED.holds)
READ_ONLY = BLOCKED.model_copy(update={"mode": SuspensionMode.READ_ONLY})
REACTIVATED = TenantReactivated(tenant_id=TENANT, lifted=HoldOrigin.BILLING)
LEAVES = OffboardingStarted(
    tenant_id=TENANT, origin=HoldOrigin.BILLING, reason="cancelled", retain_until=datetime(2027, 1, 1, tzinfo=UTC)
)
RETURNS = ReturnStarted(
    tenant_id=TENANT,
    holds=(),
    plan="starter",
    tier="starter",
    placement=Preset.POOLED,
    entitlements_hash=HASH,
    expected_by=datetime(2027, 1, 1, tzinfo=UTC),
)
CANCELLED = TenantCancelled(tenant_id=TENANT, origin=HoldOrigin.BILLING, reason="changed its mind")
EXPORT = Export(location="exports/x.jsonl.gz", sha256=HASH, size_bytes=10, rows=1)
OUTPUTS = {
    "secret.database": {"secret": "secret://provisioner/environments/x/database?v=1"},
    "bucket.data": {"bucket": "x"},
    "database.main": {"host": "127.0.0.1", "port": "5432", "database": "pool_eu_central"},
    "schema.main": {"schema_name": "product"},
    "role.main": {"username": f"t_{NUMBER}"},
}
EVERYTHING = list(OUTPUTS.items())


def built(done: Iterable[tuple[str, Mapping[str, str]]]) -> Progress:
    """Returns the progress of built resources."""
    return Progress(built=dict(done))


def entitled(**fields: Any) -> EntitlementsSet:
    """Returns entitlements with access, changed by `fields`."""
    fact = EntitlementsSet(
        tenant_id=TENANT,
        subscription_id=f"sub_{NUMBER}",
        plan=PlanRef(plan="starter", version=1, catalogue_hash=HASH),
        tier="starter",
        placement=Preset.POOLED,
        features=(),
        allows_access=True,
        entitlements_hash=HASH,
    )
    return fact.model_copy(update=fields)


def after(environment: Environment | None, events: Any) -> Environment:
    """Applies `events` to `environment`."""
    for event in events:
        environment = evolve(environment, event)
    assert environment is not None
    return environment


def completed(
    environment: Environment,
    done: Iterable[tuple[str, Mapping[str, str]]] | None = None,
    removed: Iterable[Resource] = (),
) -> list[Any]:
    """Returns the events of the last steps of a plan, and of the access that follows them."""
    progress = Progress(built=dict(EVERYTHING if done is None else done), removed=list(removed))
    events = building.progress_recorded(environment, environment.plan_hash or "", progress)
    last = after(environment, events)
    return [*events, *access.access_changed(last, last.target_access)]


REGISTERED = after(None, environments.on_tenant_requested(None, REQUESTED))
BUILDING = after(REGISTERED, planning.on_entitlements_set(REGISTERED, entitled(), BLUEPRINT, CELLS, NOW))
PLAN_HASH = BUILDING.plan_hash or ""
FAILED = after(BUILDING, building.build_failed(BUILDING, PLAN_HASH, "disk full"))
READY = after(BUILDING, completed(BUILDING))
CLOSING = after(READY, access.on_tenant_suspended(READY, BLOCKED))
CLOSED = after(CLOSING, access.access_changed(CLOSING, Access.CLOSED))
RETAINING = after(READY, access.on_tenant_left(READY, LEAVES))
RETAINED = after(RETAINING, access.retained(RETAINING, EXPORT))
RESTORING = after(RETAINED, access.on_return_started(RETAINED, RETURNS, BLUEPRINT, CELLS, NOW))
