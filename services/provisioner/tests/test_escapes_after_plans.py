"""The escape attempts are refused after every plan: a change, a rebuild, a resumed build and a repair of drift."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from driver_suite_harnesses import LosesAnswer
from paybill_contracts.placement import Preset
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.steps import diff
from test_driver_suite import applied, attempt, rendered, towards, with_steps
from test_escape_attempts import attempt_to_escape
from test_table_rebuilds import OWN, built_earlier, earlier

ROWS = ("mine", "theirs")


async def resumed(harness: Any, planned: Environment, lost: int) -> Environment:
    """Builds an environment whose driver loses the answer of one create, and that another process resumes."""
    halfway, _ = await attempt(LosesAnswer(harness.driver, lost), planned)
    other = harness.new_driver()
    environment = await applied(other, halfway)
    await other.close()
    return environment


async def pair_of(harness: Any, environments: list[Environment]) -> Any:
    """Returns the pair of two environments, with a row of each."""
    for environment, key in zip(environments, ROWS, strict=True):
        async with harness.connect(environment) as connection:
            await connection.execute("INSERT INTO documents (id, body) VALUES ($1, '{}')", key)
    return harness.pair_of(*environments)


@pytest.mark.parametrize("preset", list(Preset))
async def test_escapes_are_refused_after_a_change_in_place(harness, preset) -> None:
    pair = await harness.tenant_pair(preset)
    changed = await applied(harness.driver, towards(pair.tenant, rendered(pair.tenant, preset, 9)))
    limits = await harness.as_superuser(
        "postgres", "SELECT rolconnlimit FROM pg_roles WHERE rolname = $1", pair.tenant_role
    )

    assert limits == [(9,)]
    await attempt_to_escape(harness, replace(pair, tenant=changed))


@pytest.mark.parametrize("preset", OWN)
async def test_escapes_are_refused_after_a_rebuild_of_tables(harness, preset) -> None:
    built = [await built_earlier(harness, preset) for _ in ROWS]
    pair = await pair_of(harness, built)
    rebuilt = []
    for environment in built:
        before, after = earlier(environment)
        old = tuple(replace(each, resource=before) if each.resource == after else each for each in environment.built)
        steps = diff([each.resource for each in environment.built], [each.resource for each in old])
        rebuilt.append(await applied(harness.driver, with_steps(replace(environment, built=old), steps)))

    assert [step.action for step in rebuilt[0].plan.steps] == ["rebuild", "update"]
    await attempt_to_escape(harness, replace(pair, tenant=rebuilt[0], neighbour=rebuilt[1]))


@pytest.mark.parametrize("lost", [2, 3, 4])
@pytest.mark.parametrize("preset", list(Preset))
async def test_escapes_are_refused_after_a_build_that_failed_and_was_resumed(harness, preset, lost) -> None:
    built = await asyncio.gather(*(resumed(harness, harness.planned(preset), lost) for _ in ROWS))

    await attempt_to_escape(harness, await pair_of(harness, built))


@pytest.mark.parametrize("preset", list(Preset))
async def test_escapes_are_refused_after_a_repair_of_drift(harness, preset) -> None:
    pair = await harness.tenant_pair(preset)
    await harness.as_superuser("postgres", f'ALTER ROLE "{pair.tenant_role}" BYPASSRLS CREATEROLE CREATEDB')
    resources = [each.resource for each in pair.tenant.built]
    steps = diff(resources, resources, changed=["role.main"])
    repaired = await applied(harness.driver, with_steps(pair.tenant, steps))

    assert [(step.action, step.repairs) for step in steps] == [("update", True)]
    await attempt_to_escape(harness, replace(pair, tenant=repaired))
