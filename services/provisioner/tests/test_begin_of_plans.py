"""A plan is compared with what it was made from once more when it begins, by the running service on real servers."""

import pytest
from approval_samples import prices
from blueprint_samples import blueprint_text
from paybill_contracts.drift import EnvironmentDriftFound, ResourceDifference, ResourceDriftKind
from paybill_contracts.envelope import Origin
from paybill_definitions.blueprints_file import read_blueprint
from paybill_provisioner.domain import blueprints, price_book
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID
from paybill_provisioner.domain.environments import id_of
from paybill_provisioner.domain.price_book import PRICE_BOOK_ID
from paybill_provisioner.tables import BLUEPRINTS, CELL_KEYS, ENVIRONMENTS, PLANNING_READS, PRICE_BOOK
from paybill_runtime.clock import now
from paybill_runtime.testing import cancel


def newer_blueprint(unit, tenant, region) -> None:
    content = read_blueprint(blueprint_text(region, version=2), "newer.yaml").content
    current = unit.get(BLUEPRINTS, BLUEPRINT_ID)
    unit.record(BLUEPRINTS, BLUEPRINT_ID, blueprints.publish(current, content))


def first_price_book(unit, tenant, region) -> None:
    unit.record(PRICE_BOOK, PRICE_BOOK_ID, price_book.publish(None, prices().content))


def drifted(unit, tenant, region) -> None:
    difference = ResourceDifference(
        kind=ResourceDriftKind.UNKNOWN, resource_kind="bucket", name="stray", observed="stray"
    )
    found = EnvironmentDriftFound(
        tenant_id=tenant, environment_id=id_of(tenant), difference=difference, found_at=now(), after_repair=False
    )
    unit.record(ENVIRONMENTS, id_of(tenant), [found])


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (newer_blueprint, "blueprint"),
        (first_price_book, "price_book"),
        (drifted, "observed"),
        (None, "entitlements"),
    ],
)
async def test_a_plan_that_something_has_overtaken_is_made_anew_when_it_begins(
    provisioner, harness, publish, log, about, change, changed
) -> None:
    running, tenant = provisioner.running, about()
    await cancel(running.loops.tasks["worker"])
    await publish(tenant.requested, tenant.entitled)
    (old,) = await log.facts("provisioner.environment_planned")
    if change is None:
        other = tenant.entitled.model_copy(update={"entitlements_hash": "cd" * 32})
        await publish(other)
        await log.facts("provisioner.environment_desired")
    else:
        await running.context.decide(
            Origin("test", "test", "service:test", ""),
            lambda unit, _: change(unit, tenant.tenant, harness.region),
            writes=[
                ENVIRONMENTS.key(id_of(tenant.tenant)),
                BLUEPRINTS.key(BLUEPRINT_ID),
                PRICE_BOOK.key(PRICE_BOOK_ID),
                *CELL_KEYS,
            ],
            reads=PLANNING_READS,
        )
    running.loops.start("worker", running.worker.run)
    (superseded,) = await log.facts("provisioner.plan_superseded")
    (ready,) = await log.facts("provisioner.environment_ready")

    assert (superseded.event.plan_hash, superseded.event.changed) == (old.event.plan_hash, (changed,))
    assert ready.event.plan_hash != old.event.plan_hash
