"""A purchase at the Stripe fake, for tests of changes."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from billing_samples import plan
from paybill_billing.providers.port import Order
from paybill_billing.providers.port.desired import DesiredSubscription
from paybill_billing.providers.stripe.provider import Stripe
from paybill_contracts.catalogue import Interval, Price
from paybill_contracts.changes import ChangeKind
from paybill_contracts.money import Money

EMAIL = "ada@acme.example"


def priced(version, minor, interval=Interval.MONTH):
    price = Price(amount=Money(minor=minor, currency="EUR"), interval=interval, provider_prices={})
    return plan("pro", version).model_copy(update={"prices": (price,)})


MONTHLY_20, MONTHLY_50, YEARLY = priced(1, 2000), priced(2, 5000), priced(3, 40_000, Interval.YEAR)


def to(target, *, later=False, quantity=None):
    return DesiredSubscription(
        ChangeKind.PLAN, later, "shop", target, target.prices[0] if target else None, quantity, pinned=MONTHLY_20
    )


def action(kind, *, later=False):
    return DesiredSubscription(kind, later, "shop", pinned=MONTHLY_20)


class Bought:
    """A subscription at the Stripe fake, with its provider and the fake's clock."""

    def __init__(self, provider, fake, subscription, customer):
        self.provider = provider
        self.fake = fake
        self.id = subscription
        self.customer = customer

    def now(self):
        return datetime.fromtimestamp(self.fake.control.clock()["now"], UTC)

    def subscription(self):
        return self.fake.stripe.subscriptions.retrieve(self.id)

    def item(self):
        return self.subscription()["items"]["data"][0]

    def invoices(self):
        return self.fake.stripe.invoices.list({"subscription": self.id}).data

    def changing_calls(self):
        """Returns the number of calls that change something since the last reset."""
        calls = self.fake.control.calls()["endpoints"]
        return sum(call["total"] for call in calls if call["method"] != "GET" and "preview" not in call["path"])

    async def quote(self, desired):
        return await self.provider.quote(self.id, desired, self.now())

    async def change(self, desired, at=None, key="key"):
        await self.provider.change(self.id, desired, at or self.now(), key)


@asynccontextmanager
async def buying(fake, sold=MONTHLY_20, outcome="succeed"):
    """Buys a plan at the fake. outcome: of the checkout; `no_card` for a trial without a card."""
    async with AsyncExitStack() as stack:
        provider = Stripe("sk_test_0123456789", fake.url, "http://127.0.0.1/back", 1000)
        stack.push_async_callback(provider.close)
        order = Order(tenant_id="ten_" + "1" * 32, name="Acme", email=EMAIL, product="shop", plan=sold)
        opened = await provider.open(order, "open")
        paid = await asyncio.to_thread(fake.control.pay_checkout, opened.checkout, outcome)
        yield Bought(provider, fake, paid["subscription"], opened.customer)
