"""`python -m paybill_bench.inside_provisioner.plans AMOUNT...`: seconds to plan the repair of large environments.

For each amount it builds an environment with so many resources, of which one per cent were changed by hand. Measured
are the comparison of what was observed with the record, its differences as facts, and the plan that repairs them, with
its hash. The garbage collector is set as in a service. It prints a JSON list with the seconds of each amount, in the
order of the arguments: of processor time, since nothing waits.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from paybill_contracts.blueprints import AttributeValue, Blueprint, ResourceDefinition, TierBlueprint
from paybill_contracts.environment_plans import Plan, Resource
from paybill_contracts.event import digest
from paybill_contracts.kinds import Bucket, Column, Role, Schema, Table
from paybill_contracts.placement import Preset, placement_of
from paybill_definitions.blueprint_rules import TENANT_COLUMN
from paybill_definitions.resources import Values, render
from paybill_provisioner.domain import drift
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID, Blueprints, PublishedBlueprint
from paybill_provisioner.domain.drift import NOTHING, Observed
from paybill_provisioner.domain.environment_parts import BuiltResource
from paybill_provisioner.domain.environment_state import Desired, Environment, Status
from paybill_provisioner.domain.environments import evolve
from paybill_provisioner.domain.plans import plan_of
from paybill_provisioner.domain.sizes import Size
from paybill_provisioner.drivers import Outputs
from paybill_runtime.garbage_collector import tune_garbage_collector

NUMBER = "0123456789abcdef" * 2
REGION, TIER = "eu-central", "large"
NOW = datetime(2026, 11, 30, tzinfo=UTC)
DOCUMENTS = Table(name="documents", columns=(Column(name="id", type="text"), Column(name="body", type="jsonb")))
_GROUP = 5
"""Resources with one login: a secret, a bucket, a database, a schema and the login."""
_CHANGED = 20
"""One login of so many has another connection limit: one resource of a hundred."""


def main(amounts: Sequence[int]) -> list[float]:
    """Returns the seconds of each amount."""
    seconds = []
    for amount in amounts:
        blueprints = _blueprints(amount)
        environment = _built(blueprints)
        observed = [_observed(number, each.resource) for number, each in enumerate(environment.built)]
        tune_garbage_collector()
        begin = time.process_time()
        plan = repaired(environment, observed, blueprints)
        seconds.append(time.process_time() - begin)
        if len(plan.steps) != amount // (_GROUP * _CHANGED):
            raise ValueError(f"a plan of {amount} resources has {len(plan.steps)} steps")
    return seconds


def repaired(environment: Environment, observed: Sequence[Observed], blueprints: Blueprints) -> Plan:
    """Returns the plan that repairs what was observed to differ."""
    for event in drift.checked(environment, drift.differences(environment, observed), NOW):
        environment = evolve(environment, event)
    if environment.desired is None:
        raise ValueError("the environment has no desired state")
    plan = plan_of(environment, environment.desired, blueprints, None, by_person=True)
    digest(plan)
    return plan


def _blueprints(amount: int) -> Blueprints:
    resources = tuple(each for number in range(amount // _GROUP) for each in _group(number))
    tier = TierBlueprint(
        tier=TIER, placement=Preset.SILO, layers=placement_of(Preset.SILO), cloud="local", resources=resources
    )
    content = Blueprint(name="large", version=1, regions=(REGION,), cells=(), tiers=(tier,), tables=(DOCUMENTS,))
    return Blueprints(id=BLUEPRINT_ID, in_force=(PublishedBlueprint(content=content, content_hash=digest(content)),))


def _group(number: int) -> Iterator[ResourceDefinition]:
    attributes: dict[str, dict[str, AttributeValue]] = {
        "secret": {},
        "bucket": {},
        "database": {},
        "schema": {"in_database": f"database.n{number}", "tables": (DOCUMENTS.name,)},
        "role": {"in_schema": f"schema.n{number}", "secret": f"secret.n{number}", "connection_limit": 10},
    }
    for kind, given in attributes.items():
        yield ResourceDefinition(address=f"{kind}.n{number}", attributes=given)


def _built(blueprints: Blueprints) -> Environment:
    tenant, content = f"ten_{NUMBER}", blueprints.in_force[0].content
    new = Environment(
        id=f"env_{NUMBER}",
        tenant_id=tenant,
        slug="acme",
        region=REGION,
        revision=1,
        status=Status.READY,
        desired=Desired(Size(TIER, Preset.SILO), "ab" * 32),
        epoch=1,
    )
    resources = render(content, content.tiers[0], Values(tenant, new.slug, REGION))
    return replace(new, built=tuple(BuiltResource(each, dict(_outputs(each))) for each in resources))


def _outputs(resource: Resource) -> Outputs:
    if resource.kind == "database":
        return {"host": "127.0.0.1", "port": "5432", "database": resource.attributes.name}
    return {"name": resource.attributes.name}


def _observed(number: int, resource: Resource) -> Observed:
    """Returns the resource as it exists; the login of every twentieth group was changed."""
    attributes: dict[str, str] = {}
    match resource.attributes:
        case Role(connection_limit=limit):
            limit += 1 if number // _GROUP % _CHANGED == 0 else 0
            attributes = {"connection_limit": str(limit), "privileges": NOTHING, "login": "no"}
        case Schema(tables=tables):
            attributes = {f"{table.name}.{column.name}": column.type for table in tables for column in table.columns}
            attributes |= {f"{table.name}.{TENANT_COLUMN}": "text" for table in tables}
        case Bucket():
            attributes = {"mode": "0700"}
        case _:
            attributes = {"public": NOTHING} if resource.kind == "database" else {}
    return Observed(resource.kind, resource.identity, f"ten_{NUMBER}", attributes)


if __name__ == "__main__":
    print(json.dumps(main([int(amount) for amount in sys.argv[1:]])))  # noqa: T201  # its result
