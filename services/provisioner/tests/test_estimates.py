"""Estimates of plans: cost by the price book, duration by earlier runs, risks by rules, changed limits."""

from dataclasses import replace
from statistics import median
from typing import Any

import pytest
from blueprint_samples import blueprint_of, published, tier_blueprint
from environment_samples import (
    BLUEPRINT,
    BUILDING,
    CELLS,
    CONTENT,
    HASH,
    NOW,
    PLAN_HASH,
    READY,
    REGISTERED,
    after,
    completed,
    entitled,
)
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.catalogue import LimitFeature
from paybill_contracts.environment_plans import EnvironmentPlanned, PlanRefused
from paybill_contracts.event import canonical, decode, digest, encode
from paybill_contracts.kinds import Column, ResourceSize, Table
from paybill_contracts.placement import Isolation, Preset
from paybill_contracts.plan_estimates import LimitChange, PlanRunMeasured
from paybill_contracts.price_book import PriceBook, PriceUnit, ResourcePrice
from paybill_provisioner.domain import building, estimates, planning, plans, price_book
from paybill_provisioner.domain.environment_state import Desired
from paybill_provisioner.domain.estimates import NO_PRICE_BOOK, PlanRuns, monthly_cost, resources_after, used
from paybill_provisioner.domain.inputs import PlanInputs
from paybill_provisioner.domain.price_book import (
    InvalidPriceBookError,
    PriceBookVersionError,
    PublishedPriceBook,
)
from paybill_provisioner.domain.sizes import Size
from paybill_provisioner.domain.steps import diff

DATABASE = {"kind": "database", "cloud": "local"}
PRICES = (
    ResourcePrice(**DATABASE, isolation=Isolation.POOL, minor=1000),
    ResourcePrice(**DATABASE, isolation=Isolation.SILO, minor=5800),
    ResourcePrice(kind="bucket", cloud="local", minor=200),
    ResourcePrice(kind="secret", cloud="local", minor=0),
)


def book_of(*prices: ResourcePrice, version: int = 1) -> PublishedPriceBook:
    content = PriceBook(
        name="list", version=version, source="contract", date="2026-11-01", currency="EUR", prices=prices
    )
    return PublishedPriceBook("main", content, digest(content))


BOOK = book_of(*PRICES)
SILO = entitled(tier="business", placement=Preset.SILO)


def plan_of(environment: Any, fact: Any, **inputs: Any) -> Any:
    size = Size(fact.tier, fact.placement)
    limits = {each.key: each.limit for each in fact.features}
    desired = Desired(size, fact.entitlements_hash, limits)
    cell = None if fact.placement is Preset.SILO else 1
    return plans.plan_of(environment, desired, BLUEPRINT, cell, PlanInputs(**inputs))


def test_a_plan_shows_the_cost_of_a_month_before_and_after() -> None:
    plan = plan_of(READY, SILO, price_book=BOOK)
    cost = plan.estimates.cost

    assert (cost.before.text, cost.after.text, cost.missing) == ("12.00 EUR", "60.00 EUR", ())
    assert plan.price_book == BOOK.ref


def test_a_missing_price_is_unknown_and_never_0() -> None:
    without_database = book_of(*(each for each in PRICES if each.isolation is not Isolation.SILO))
    cost = plan_of(READY, SILO, price_book=without_database).estimates.cost

    assert (cost.before.text, cost.after, cost.missing) == ("12.00 EUR", None, ("database, local",))
    assert plan_of(READY, SILO).estimates.cost.missing == (NO_PRICE_BOOK,)
    assert plan_of(READY, SILO).estimates.cost.before is None


def test_a_shared_database_is_used_beside_a_resource_of_the_tenants_own_only() -> None:
    everything = tuple(each.resource for each in READY.built)
    shared = tuple(each for each in everything if each.address == "database.main")

    assert (used(shared), used(everything)) == ((), everything)


def test_what_does_not_exist_costs_nothing() -> None:
    cost = plan_of(REGISTERED, SILO, price_book=BOOK).estimates.cost

    assert (cost.before.minor, cost.after.minor) == (0, 6000)


def test_the_price_that_names_most_applies_and_units_are_multiplied() -> None:
    (database,) = [each.resource for each in READY.built if each.resource.kind == "database"]
    sized = database.model_copy(
        update={"attributes": database.attributes.model_copy(update={"storage_gib": 20, "size": ResourceSize.SMALL})}
    )
    prices = (
        ResourcePrice(**DATABASE, minor=1),
        ResourcePrice(**DATABASE, region="eu-central", minor=2),
        ResourcePrice(**DATABASE, region="eu-central", isolation=Isolation.POOL, minor=1000),
        ResourcePrice(**DATABASE, region="us-east", isolation=Isolation.POOL, size=ResourceSize.SMALL, minor=9),
        ResourcePrice(**DATABASE, per=PriceUnit.STORAGE_GIB, minor=10),
    )
    cost = monthly_cost([database], [sized], "local", "eu-central", book_of(*prices).content)

    assert cost.after is not None
    assert (cost.before, cost.after.minor) == (None, 1200)
    assert cost.missing == ("database, local: its storage_gib is not set",)


@given(st.lists(st.integers(0, 10**6), max_size=60))
def test_the_duration_is_the_median_of_the_last_20_runs_of_the_same_steps(took: list[int]) -> None:
    plan = plan_of(REGISTERED, entitled())
    signature = estimates.signature(plan.steps, plan.cloud)
    runs: PlanRuns | None = None
    for each in took:
        runs = estimates.evolve(
            runs,
            PlanRunMeasured(
                plan_runs="main", environment_id=REGISTERED.id, plan_hash=HASH, signature=signature, took_ms=each
            ),
        )
    expected = plan_of(REGISTERED, entitled(), runs=runs).estimates.expected_ms

    assert expected == (round(median(took[-20:])) if took else None)
    assert plan_of(REGISTERED, SILO, runs=runs).estimates.expected_ms is None


def test_durations_of_plans_that_ran_long_ago_are_dropped() -> None:
    runs: PlanRuns | None = None
    for number in range(estimates.MAX_SIGNATURES + 1):
        event = PlanRunMeasured(
            plan_runs="main",
            environment_id=REGISTERED.id,
            plan_hash=HASH,
            signature=f"{number:064x}",
            took_ms=number,
        )
        runs = estimates.evolve(runs, event)

    assert runs is not None
    assert (len(runs.runs), runs.of(f"{0:064x}"), runs.of(f"{1:064x}")) == (estimates.MAX_SIGNATURES, (), (1,))


def test_a_complete_plan_is_measured_and_a_failed_one_is_not() -> None:
    later = NOW.replace(second=40)
    ready = after(BUILDING, completed(BUILDING))
    failed = after(BUILDING, building.build_failed(BUILDING, PLAN_HASH, "disk full"))
    (event,) = building.run_measured(BUILDING, ready, later)

    assert (event.took_ms, event.plan_hash) == (40_000, PLAN_HASH)
    assert building.run_measured(BUILDING, failed, later) == []
    assert building.run_measured(ready, ready, later) == []


def test_risks_name_the_rule_and_the_resources() -> None:
    found = {each.rule: each.text for each in plan_of(READY, SILO).estimates.risks}
    deletes = diff((), (each.resource for each in READY.built))
    less = published(blueprint_of(tier_blueprint("starter", Preset.POOLED, 1), version=2))
    (planned,) = planning.compare(READY, less, CELLS, NOW)

    assert set(found) == {"writes_pause"}
    assert "schema.main" in found["writes_pause"]
    assert [each.rule for each in estimates.risks(deletes)] == ["data_deleted"]
    assert "database.main" not in next(estimates.risks(deletes)).text  # of a pool: other tenants use it
    assert [each.rule for each in planned.plan.estimates.risks] == ["fewer_connections"]
    assert list(estimates.risks(plan_of(REGISTERED, SILO).steps)) == []


def test_a_repair_that_creates_a_lost_bucket_or_a_database_again_warns_that_it_is_empty() -> None:
    built = [each.resource for each in READY.built]
    again = diff(built, built, missing={"bucket.data", "role.main"})
    login = diff(built, built, missing={"role.main"})

    assert [(each.rule, each.text) for each in estimates.risks(again)] == [
        ("created_empty", "bucket.data is created again and empty: the data that was in it stays lost")
    ]
    assert list(estimates.risks(login)) == []


def test_a_plan_shows_the_limits_that_it_changes() -> None:
    limit = LimitFeature(kind="limit", key="connections", limit=50)
    before = replace(READY, built_limits={"connections": 10, "seats": 3})
    plan = plan_of(before, SILO.model_copy(update={"features": (limit,)}))

    assert plan.estimates.limits == (
        LimitChange(feature="connections", before=10, after=50),
        LimitChange(feature="seats", before=3, after=None),
    )


def test_resources_after_a_plan_are_those_of_the_target() -> None:
    existing = [each.resource for each in READY.built]
    plan = plan_of(READY, SILO)
    found = {each.address: each for each in resources_after(existing, plan.steps)}

    assert found["schema.main"].isolation is Isolation.SILO
    assert set(found) == {each.address for each in existing}
    assert resources_after(existing, diff((), existing)) == tuple(each for each in existing if each.kind == "database")


def test_a_resource_that_a_plan_makes_again_is_counted_once() -> None:
    existing = [each.resource for each in READY.built]
    repair = diff(existing, existing, missing=["bucket.data"])
    found = resources_after(existing, repair)

    assert [step.address for step in repair] == ["bucket.data"]
    assert sorted(each.address for each in found) == sorted(each.address for each in existing)


def test_the_hash_of_a_plan_is_that_of_its_canonical_form_and_survives_the_log() -> None:
    (planned,) = planning.on_entitlements_set(
        REGISTERED, entitled(), BLUEPRINT, CELLS, NOW, PlanInputs(price_book=BOOK)
    )
    assert isinstance(planned, EnvironmentPlanned)
    read = decode(EnvironmentPlanned.TYPE, EnvironmentPlanned.VERSION, encode(planned))

    assert isinstance(read, EnvironmentPlanned)
    assert (planned.plan_hash, read.plan_hash) == (digest(planned.plan), digest(read.plan))
    other = PlanInputs(price_book=book_of(*PRICES, version=2))
    (again,) = planning.on_entitlements_set(REGISTERED, entitled(), BLUEPRINT, CELLS, NOW, other)
    assert isinstance(again, EnvironmentPlanned)
    assert again.plan_hash != planned.plan_hash


def test_a_plan_that_fits_into_no_fact_is_refused_with_its_size() -> None:
    columns = tuple(Column(name=f"column_{number:02}{'x' * 40}", type="text") for number in range(50))
    tables = tuple(Table(name=f"table_{number}", columns=columns) for number in range(200))
    large = published(
        blueprint_of(tier_blueprint("starter", Preset.POOLED, tables=tables), *CONTENT.tiers[1:], tables=tables)
    )
    events = planning.on_entitlements_set(REGISTERED, entitled(), large, CELLS, NOW)
    (refused,) = [each for each in events if isinstance(each, PlanRefused)]

    assert refused.code == "plan_too_large"
    size = int(refused.reason.split()[3])
    assert size > 512 * 1024
    assert after(REGISTERED, events).plan is None


def test_a_price_book_is_never_replaced_by_an_older_version() -> None:
    newer = book_of(*PRICES, version=2)
    published_ = price_book.evolve(BOOK, price_book.publish(BOOK, newer.content)[0])

    assert price_book.publish(newer, newer.content) == []
    assert [each.version for each in published_.earlier] == [1]
    with pytest.raises(PriceBookVersionError, match="version: 3"):
        price_book.publish(newer, BOOK.content)
    with pytest.raises(InvalidPriceBookError, match="at least one price"):
        price_book.publish(None, book_of().content)


def test_the_size_limit_counts_the_canonical_form() -> None:
    plan = plan_of(REGISTERED, entitled(), price_book=BOOK)

    assert len(canonical(plan.model_dump(mode="json"))) < 8 * 1024
    assert plans.hash_of(plan) == digest(plan)
