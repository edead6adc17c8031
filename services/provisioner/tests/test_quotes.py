"""The plan that follows from a quoted change of the subscription shows its proration."""

from datetime import UTC, datetime
from typing import Any

import pytest
from approval_samples import open_approval, prices
from environment_samples import BLUEPRINT, CELLS, NOW, READY, TENANT, after, entitled
from paybill_contracts.catalogue import LimitFeature
from paybill_contracts.changes import (
    ChangeDiscarded,
    ChangeExpired,
    ChangeQuoted,
    ChangeRefused,
    FeatureDifference,
    Proration,
)
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.plan_estimates import LimitChange
from paybill_provisioner.domain import planning, quotes
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.inputs import PlanInputs

DUE = Money(minor=16_999, currency="EUR")
IDS = {"change_id": "chg_" + "1" * 32, "tenant_id": TENANT, "subscription_id": "sub_" + "1" * 32}
QUOTED = ChangeQuoted(
    **IDS,
    proration=Proration(lines=(), due_now=DUE, next_amount=None, effective_at=NOW),
    features=(),
    tier_before="starter",
    tier_after="business",
    placement_before="pooled",
    placement_after="silo",
    valid_until=datetime(2027, 1, 1, tzinfo=UTC),
    quote_hash="ab" * 32,
)
BUSINESS = entitled(tier="business", placement=Preset.SILO, entitlements_hash="cd" * 32)


def noted(environment: Environment = READY, fact: ChangeQuoted = QUOTED) -> Environment:
    return after(environment, quotes.on_change_quoted(environment, fact))


def entitle(environment: Environment, fact: Any = BUSINESS, inputs: PlanInputs | None = None) -> Environment:
    return after(
        environment, planning.on_entitlements_set(environment, fact, BLUEPRINT, CELLS, NOW, inputs or PlanInputs())
    )


def proration(environment: Environment) -> Money | None:
    plan = open_approval(environment).plan
    assert plan is not None
    return plan.estimates.proration


def test_the_plan_shows_the_proration_of_the_change_that_it_follows() -> None:
    assert proration(entitle(noted())) == DUE


def test_a_quote_alone_plans_nothing_and_supersedes_nothing() -> None:
    waiting = entitle(READY, entitled(tier="business", placement=Preset.SILO))
    again = noted(waiting)

    assert (noted().base_revision, noted().plan) == (READY.base_revision, READY.plan)
    assert planning.compare(again, BLUEPRINT, CELLS, NOW) == []
    assert proration(again) is None


def test_entitlements_of_before_the_change_have_no_proration() -> None:
    waiting = entitle(noted(), entitled(tier="business", placement=Preset.SILO))

    assert proration(waiting) is None


@pytest.mark.parametrize(
    "ended", [ChangeDiscarded(**IDS), ChangeExpired(**IDS), ChangeRefused(**IDS, code="x", reason="x")]
)
def test_a_change_that_is_not_made_leaves_no_proration(ended: Any) -> None:
    forgotten = after(noted(), quotes.on_change_ended(noted(), ended))
    other = ended.model_copy(update={"change_id": "chg_" + "2" * 32})

    assert forgotten.quoted is None
    assert proration(entitle(forgotten)) is None
    assert quotes.on_change_ended(noted(), other) == []
    assert quotes.on_change_ended(None, ended) == []


def test_a_change_that_gives_the_same_is_not_noted() -> None:
    same = QUOTED.model_copy(update={"tier_after": "starter", "placement_after": "pooled"})

    assert quotes.on_change_quoted(READY, same) == []
    assert quotes.on_change_quoted(None, QUOTED) == []


def test_a_change_of_a_limit_is_shown_once_and_not_in_later_plans() -> None:
    feature = LimitFeature(kind="limit", key="connections", limit=50)
    features = (FeatureDifference(before=None, after=feature),)
    change = QUOTED.model_copy(update={"tier_after": "starter", "placement_after": "pooled", "features": features})
    larger = entitled(entitlements_hash="cd" * 32, features=(feature,))
    done = entitle(noted(fact=change), larger)
    planned = done.plan
    assert planned is not None
    assert (planned.estimates.proration, planned.estimates.limits) == (
        DUE,
        (LimitChange(feature="connections", before=None, after=50),),
    )
    assert done.quoted is None


def test_the_quote_of_a_change_stays_until_its_plan_is_complete() -> None:
    waiting = entitle(noted())
    again = after(waiting, planning.compare(waiting, BLUEPRINT, CELLS, NOW, PlanInputs(price_book=prices())))

    assert open_approval(again).id != open_approval(waiting).id
    assert proration(again) == DUE
