"""Fixtures for tests of every package: real servers, fresh databases, whole services, and something to sell."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from paybill_contracts.blueprints import Blueprint, BlueprintPublished
from paybill_contracts.catalogue import Catalogue, CataloguePublished, PlanVersion
from paybill_contracts.placement import Preset

pytest_plugins = ["paybill_runtime.testing"]

# How long an example takes depends on the machine and on what else runs there.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives the mark `e2e` to every test in `tests-e2e`, and to every other one that runs on a whole stack."""
    folder = Path(__file__).parent / "tests-e2e"
    for item in items:
        if folder in item.path.parents or "real_stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def offerings() -> tuple[CataloguePublished, BlueprintPublished]:
    """Catalogue with the plan `pro` and blueprint with the region `eu-1`: without them no request is granted."""
    plan = PlanVersion(
        plan="pro",
        version=1,
        name="Pro",
        tier="standard",
        placement=Preset.POOLED,
        trial_days=0,
        grace_s=60,
        retention_s=86_400,
        features=(),
        prices=(),
    )
    content = Catalogue(product="app", plans=(plan,))
    regions = Blueprint(name="main", version=1, regions=("eu-1",), cells=(), tiers=(), tables=())
    return (
        CataloguePublished(catalogue="main", content=content, content_hash="c" * 64),
        BlueprintPublished(blueprint="main", content=regions, content_hash="c" * 64),
    )
