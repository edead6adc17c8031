"""A table whose states have another format is written again from the facts, before the service runs."""

from copy import copy
from dataclasses import replace

import pytest
from paybill_runtime.database.pool import Database
from paybill_runtime.errors import ConfigurationError
from paybill_runtime.replay.formats import migrate_states
from paybill_runtime.settings import read_secret
from paybill_tenant.app import service
from paybill_tenant.tables import TENANTS

UNREADABLE = "UPDATE tenants SET state = state - 'name'"


@pytest.fixture
def newer():
    """Returns the service with another format of its tenants."""
    stored = copy(TENANTS)
    stored.format = TENANTS.format + 1
    return replace(service(), states=[stored if each is TENANTS else each for each in service().states])


async def migrated(served, declared) -> list[str]:
    settings = served.running.settings
    database = Database(settings.database_url, read_secret(settings.database_password_file), "migrating")
    try:
        return await migrate_states(database, declared)
    finally:
        await database.close()


async def test_a_start_writes_the_states_of_another_format_again(served, sign_up, start, databases, newer) -> None:
    await sign_up(served)
    url = str(served.running.settings.database_url)
    await served.running.__aexit__()
    await databases.execute(url, "tenant", UNREADABLE)

    again = await start(newer, url=url)
    shown = (await again.client.get("/v1/tenants/acme")).json()
    formats = await databases.execute(url, "tenant", "SELECT kind, format FROM chassis.state_format")

    assert shown["name"] == "Acme"
    assert [tuple(row) for row in formats] == [("tenant", TENANTS.format + 1)]


async def test_an_equal_format_leaves_the_rows_as_they_are(served, sign_up, databases) -> None:
    await sign_up(served)
    url = str(served.running.settings.database_url)
    await served.running.__aexit__()
    await databases.execute(url, "tenant", UNREADABLE)

    written = await migrated(served, service())
    (row,) = await databases.execute(url, "tenant", "SELECT state ? 'name' AS named FROM tenants")

    assert (written, row["named"]) == ([], False)


async def test_the_states_are_written_once(served, newer) -> None:
    await served.running.__aexit__()

    assert [await migrated(served, newer), await migrated(served, newer)] == [["tenant"], []]


async def test_no_state_is_written_while_another_process_runs(served, sign_up, databases, newer) -> None:
    await sign_up(served)

    with pytest.raises(ConfigurationError, match="still runs; stop it"):
        await migrated(served, newer)

    url = str(served.running.settings.database_url)
    (row,) = await databases.execute(url, "tenant", "SELECT kind, format FROM chassis.state_format")
    assert tuple(row) == ("tenant", TENANTS.format)
