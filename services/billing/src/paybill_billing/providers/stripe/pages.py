"""Lists of Stripe as raw JSON: one page, or all of them."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote as quoted

import stripe

from paybill_billing.providers.stripe.client import stripe_errors
from paybill_billing.providers.stripe.mappers import Json

PAGE = 100


async def page_of(
    client: stripe.StripeClient, path: str, after: str | None = None, **params: Any
) -> tuple[list[Json], str | None]:
    """Returns a page of a list, and the cursor of the next page. after: the cursor of this one."""
    if after is not None:
        params["starting_after"] = after
    with stripe_errors():
        page = (await client.raw_request_async("get", path, limit=PAGE, **params)).data
    found: list[Json] = page["data"]
    return found, found[-1]["id"] if found and page["has_more"] else None


async def lines_of(client: stripe.StripeClient, invoice: Json) -> AsyncIterator[Json]:
    """Yields all lines of an invoice: a list of invoices shows the first ten of each."""
    lines = invoice["lines"]
    if not lines.get("has_more"):
        for line in lines["data"]:
            yield line
        return
    async for line in all_of(client, f"/v1/invoices/{quoted(str(invoice['id']), safe='')}/lines"):
        yield line


async def all_of(client: stripe.StripeClient, path: str, **params: Any) -> AsyncIterator[Json]:
    """Yields all objects of a list; a page is fetched when it is needed."""
    found, after = await page_of(client, path, **params)
    while True:
        for each in found:
            yield each
        if after is None:
            return
        found, after = await page_of(client, path, after, **params)
