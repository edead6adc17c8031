"""Changes at Stripe whose response was lost: the repetition neither makes nor refuses what was already made."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import stripe
from paybill_billing.providers.port import ProviderUnavailableError, QuoteOutdatedError
from paybill_billing.providers.stripe.client import PacedClient
from paybill_billing.providers.stripe.provider import Stripe
from stripe_purchase import MONTHLY_50, buying, to
from typing_extensions import override


class LosingClient(PacedClient):
    """Connection on which the response to a change of a subscription is lost, or its request arrives late."""

    def __init__(self):
        super().__init__(1000)
        self.late = None
        self.held = asyncio.Event()

    @override
    async def request_async(self, method, url, headers, post_data=None):
        if method != "post" or "/v1/subscriptions/" not in url or self.held.is_set():
            return await super().request_async(method, url, headers, post_data)
        self.held.set()
        send = super().request_async(method, url, headers, post_data)
        if self.late is None:
            await send
        else:
            self.late.append(send)
        raise stripe.APIConnectionError("the response was lost")


@pytest.fixture
def losing(fake):
    @asynccontextmanager
    async def connect(*, late=False):
        http = LosingClient()
        http.late = [] if late else None
        async with buying(fake) as bought:
            ordinary, bought.provider = bought.provider, Stripe("sk_test_0123456789", fake.url, "http://x/", 1, http)
            quote = await bought.quote(to(MONTHLY_50))
            confirmed = replace(to(MONTHLY_50), confirmed=quote)
            with pytest.raises(ProviderUnavailableError):
                await bought.change(confirmed, at=quote.effective_at)
            yield bought, confirmed, quote, http
            await bought.provider.close()
            bought.provider = ordinary

    return connect


def set_seats(bought, quantity):
    item = {"id": bought.item().id, "quantity": quantity}
    bought.fake.stripe.subscriptions.update(bought.id, {"items": [item], "proration_behavior": "always_invoice"})


async def test_the_repetition_of_a_change_that_was_made_does_nothing(losing):
    async with losing() as (bought, confirmed, quote, _):
        invoices = len(bought.invoices())

        await bought.change(confirmed, at=quote.effective_at)

        assert (len(bought.invoices()), bought.item().price.unit_amount) == (invoices, 5000)


@pytest.mark.parametrize("price", [2000, 5000])
async def test_a_change_that_was_made_is_not_refused_for_what_the_customer_did_since(losing, price):
    async with losing() as (bought, confirmed, quote, _):
        set_seats(bought, 30)
        if price != 5000:
            other = bought.fake.stripe.prices.list({"limit": 100}).data
            (cheaper,) = (each.id for each in other if each.unit_amount == price)
            bought.fake.stripe.subscriptions.update(bought.id, {"items": [{"id": bought.item().id, "price": cheaper}]})
        invoices = len(bought.invoices())

        await bought.change(confirmed, at=quote.effective_at)

        assert (len(bought.invoices()), bought.item().price.unit_amount) == (invoices, price)


async def test_a_request_that_arrives_after_the_refusal_changes_nothing(losing):
    async with losing(late=True) as (bought, confirmed, quote, http):
        set_seats(bought, 30)
        invoices = len(bought.invoices())

        with pytest.raises(QuoteOutdatedError):
            await bought.change(confirmed, at=quote.effective_at)
        _, status, _ = await http.late[0]

        assert status == 400
        assert (len(bought.invoices()), bought.item().price.unit_amount) == (invoices, 2000)
