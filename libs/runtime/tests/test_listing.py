"""Pages of list routes, on a real database."""

import pytest
from paybill_runtime.http.listing import load_events, load_page, load_state
from paybill_tenant.tables import TENANTS


@pytest.fixture
async def tenants(served, sign_up) -> list[str]:
    """Three tenants, in the order of their slugs."""
    for slug in ("cedar", "ash", "birch"):
        await sign_up(served, slug)
    return ["ash", "birch", "cedar"]


async def test_pages_follow_each_other_until_the_last(served, tenants) -> None:
    found, after = [], None
    for _ in range(3):
        page, after = await load_page(served.running.context, TENANTS, after, 1, order_by="slug")
        found += [tenant.slug for tenant in page]

    assert (found, after) == (tenants, None)


async def test_a_filter_that_is_not_given_matches_everything(served, tenants) -> None:
    one, _ = await load_page(served.running.context, TENANTS, None, 9, slug="birch")
    every, _ = await load_page(served.running.context, TENANTS, None, 9, slug=None)

    assert ([tenant.slug for tenant in one], len(every)) == (["birch"], len(tenants))


async def test_one_state_is_fetched_by_its_id(served, tenants) -> None:
    page, _ = await load_page(served.running.context, TENANTS, None, 1)

    assert await load_state(served.running.context, TENANTS, page[0].id) == page[0]
    assert await load_state(served.running.context, TENANTS, "ten_" + "0" * 32) is None


async def test_the_events_of_one_state_follow_a_revision(served, tenants) -> None:
    page, _ = await load_page(served.running.context, TENANTS, None, 1)
    aggregate = f"tenant/{page[0].id}"

    found = await load_events(served.running.context, aggregate, 9)

    assert [each.event.TYPE for each in found] == ["tenant.tenant_requested"]
    assert found[0].at <= served.running.context.now()
    assert await load_events(served.running.context, aggregate, 9, after=1) == []
