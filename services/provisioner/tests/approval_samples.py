"""Environments whose plans wait for an approval, and the steps until they are applied."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from blueprint_samples import blueprint_of, published, tier_blueprint
from environment_samples import CELLS, CONTENT, NOW, OUTPUTS, after
from paybill_contracts.event import digest
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.policy import CostLimit, Handling, Policy
from paybill_contracts.price_book import PriceBook, ResourcePrice
from paybill_provisioner.domain import access, applying, approvals, building, planning
from paybill_provisioner.domain.blueprints import Blueprints
from paybill_provisioner.domain.building import Progress
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.plan_approvals import PlanApproval
from paybill_provisioner.domain.policy import SAFE, PublishedPolicy
from paybill_provisioner.domain.price_book import PublishedPriceBook

ADA, BO = "user:ada", "user:bo"


def prices(pool: int = 1000, silo: int = 5800, version: int = 1) -> PublishedPriceBook:
    """Returns a price book with a database, a bucket and a secret."""
    found = [
        {"kind": "database", "isolation": "pool", "minor": pool},
        {"kind": "database", "isolation": "silo", "minor": silo},
        {"kind": "bucket", "minor": 200},
        {"kind": "secret", "minor": 0},
    ]
    content = PriceBook(
        name="list",
        version=version,
        source="contract",
        date="2026-11-01",
        currency="EUR",
        prices=tuple(ResourcePrice.model_validate({"cloud": "local", **each}, strict=False) for each in found),
    )
    return PublishedPriceBook("main", content, digest(content))


def policy(limit: int | None = None, **rules: Any) -> PublishedPolicy:
    """Returns the safe policy, changed by `rules`, with a limit of the cost in cents."""
    cost = None
    if limit is not None:
        cost = CostLimit(monthly=Money(minor=limit, currency="EUR"), handling=Handling.APPROVAL)
    content: Policy = SAFE.model_copy(update={"cost_limit": cost, **rules})
    return PublishedPolicy("main", content, digest(content))


def without_bucket(version: int = 2, connection_limit: int = 5) -> Blueprints:
    """Returns the blueprint whose starter has no bucket: a plan deletes it."""
    tier = tier_blueprint("starter", Preset.POOLED, connection_limit)
    kept = tuple(each for each in tier.resources if each.address != "bucket.data")
    return published(blueprint_of(tier.model_copy(update={"resources": kept}), *CONTENT.tiers[1:], version=version))


def open_approval(environment: Environment) -> PlanApproval:
    """Returns the approval that the environment waits for."""
    assert environment.approval is not None
    assert environment.approval.is_open
    return environment.approval


def compared(
    environment: Environment, blueprints: Blueprints, inputs: PlanInputs | None = None, now: datetime = NOW
) -> Environment:
    """Returns the environment after a comparison of desired and planned state."""
    return after(environment, planning.compare(environment, blueprints, CELLS, now, inputs or PlanInputs()))


def approved(
    environment: Environment,
    blueprints: Blueprints,
    inputs: PlanInputs | None = None,
    approver: str = BO,
    now: datetime = NOW,
) -> Environment:
    """Returns the environment after the approval of its plan."""
    found = open_approval(environment)
    events = approvals.approve(
        environment, found.id, found.plan_hash, approver, blueprints, inputs or PlanInputs(), now
    )
    return after(environment, planning.decided(environment, events, now))


def applied(
    environment: Environment,
    blueprints: Blueprints,
    inputs: PlanInputs | None = None,
    plan_hash: str = "",
    now: datetime = NOW,
) -> Sequence[Any]:
    """Returns the events of applying the plan of the last approval."""
    hash_ = plan_hash or (environment.approval.plan_hash if environment.approval else "")
    return applying.apply(environment, environment.id, hash_, blueprints, CELLS, inputs or PlanInputs(), now)


def finished(environment: Environment) -> Environment:
    """Returns the environment after all steps of its open plan are done."""
    progress = Progress(
        built={each.address: OUTPUTS.get(each.address, {}) for each in environment.remaining if each.after is not None},
        removed=[each.before for each in environment.remaining if each.after is None and each.before is not None],
    )
    last = after(environment, building.progress_recorded(environment, environment.plan_hash or "", progress))
    return after(last, access.access_changed(last, last.target_access))
