"""Every provider passes the same checks: Stripe on its fake, manual on real PostgreSQL, and a third party's."""

import asyncio
import hmac
import json
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest
from billing_samples import EUR_20, plan
from paybill_billing.app import service
from paybill_billing.providers import conformance
from paybill_billing.providers.conformance import NonConformingError
from paybill_billing.providers.manual.domain import manual
from paybill_billing.providers.manual.domain.contracts import existing
from paybill_billing.providers.manual.effects import Manual
from paybill_billing.providers.manual.tables import ManualContractTable
from paybill_billing.providers.port import Delivery, Order
from paybill_billing.providers.stripe.inbound import StripeInbound
from paybill_billing.providers.stripe.provider import Stripe

sys.path.append(str(Path(__file__).parent / "third_party"))

from acmepay import AcmeInbound, AcmePay, Remote, sign  # found through the path above

PLAN = plan("pro", 1)
SECRET = b"0123456789abcdef"
CHECKS = conformance.CHECKS
every_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


class Orders:
    """Yields new customers."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def order(self) -> Order:
        number = next(self._numbers)
        return Order(f"ten_{number:032x}", "Acme", f"ops{number}@acme.example", conformance.PRODUCT, PLAN)

    def now(self) -> datetime:
        return datetime.now(UTC)


class AcmePayRig(Orders):
    def __init__(self) -> None:
        super().__init__()
        self.remote = Remote()
        self.provider = AcmePay(self.remote)
        self.inbound = AcmeInbound(SECRET)

    async def buy(self, opened):
        return self.remote.buy(opened.customer)

    def message(self) -> bytes:
        customer = "acc_0"
        self.remote.orders[customer] = self.order()
        return self.remote.message(self.remote.buy(customer))

    def sign(self, body: bytes, at: datetime) -> Mapping[str, str]:
        return sign(body, at, SECRET)


class ManualRig(Orders):
    def __init__(self, contract_store) -> None:
        super().__init__()
        self.contract_store = contract_store
        self.provider = Manual(contract_store, "https://shop.example/offers/")

    async def buy(self, opened):
        def accept(state, now):
            found = existing(state, opened.customer)
            terms = found.offer.terms
            return manual.accept(found, order="PO 1", terms=terms, payment_days=30, trial_days=0, now=now)

        await self.contract_store.decide(opened.checkout, "accept", accept)
        return opened.checkout


class StripeRig(Orders):
    def __init__(self, provider, fake) -> None:
        super().__init__()
        self.provider = provider
        self.fake = fake

    async def buy(self, opened):
        paid = await asyncio.to_thread(self.fake.control.pay_checkout, opened.checkout)
        return paid["subscription"]

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.fake.control.clock()["now"], UTC)


class StripeMessages:
    inbound = StripeInbound((SECRET.decode(),))

    def message(self) -> bytes:
        item = {"object": "subscription", "id": "sub_1"}
        event = {"id": "evt_1", "type": "customer.subscription.updated", "data": {"object": item}}
        return json.dumps(event).encode()

    def sign(self, body: bytes, at: datetime) -> Mapping[str, str]:
        time = int(at.timestamp())
        return {"stripe-signature": f"t={time},v1={hmac.new(SECRET, b'%d.' % time + body, sha256).hexdigest()}"}


@pytest.fixture
async def manual_rig(start, fake, settings):
    served = await start(service(), **settings)
    contract_store = ManualContractTable()
    await contract_store.set_context(served.running.context)
    return ManualRig(contract_store)


@pytest.fixture
async def stripe_rig(fake):
    async with AsyncExitStack() as stack:
        provider = Stripe("sk_test_0123456789", fake.url, "http://127.0.0.1/back", 1000)
        stack.push_async_callback(provider.close)
        yield StripeRig(provider, fake)


@every_check
async def test_a_third_party_conforms(check) -> None:
    await check(AcmePayRig())


@pytest.mark.parametrize("check", conformance.INBOUND_CHECKS, ids=lambda check: check.__name__)
async def test_the_messages_of_a_third_party_conform(check) -> None:
    await check(AcmePayRig())


@pytest.mark.parametrize(
    "check", [*conformance.PORTAL_CHECKS, *conformance.LIST_CHECKS], ids=lambda check: check.__name__
)
async def test_optional_capabilities_of_a_third_party_conform(check) -> None:
    await check(AcmePayRig())


async def test_the_manual_provider_conforms(manual_rig) -> None:
    for check in CHECKS:
        await check(manual_rig)


async def test_stripe_conforms(stripe_rig) -> None:
    for check in (*CHECKS, *conformance.LIST_CHECKS, *conformance.PORTAL_CHECKS, *conformance.ADOPT_CHECKS):
        await check(stripe_rig)


@pytest.mark.parametrize("check", conformance.INBOUND_CHECKS, ids=lambda check: check.__name__)
async def test_the_messages_of_stripe_conform(check) -> None:
    await check(StripeMessages())


class Forgetful(AcmePay):
    """Provider that creates a customer at every attempt, changes on a quote, and never refuses."""

    async def open(self, order, key):
        self.remote.opened.pop(key, None)
        return await super().open(order, key)

    async def fetch(self, subscription):
        return self.remote.subscriptions.get(subscription) or next(iter(self.remote.subscriptions.values()), None)

    async def cancel_all(self, customer) -> None:
        pass

    async def quote(self, subscription, desired, at):
        await self.change(subscription, desired, at, "quote")
        return await super().quote(subscription, desired, at)

    async def change(self, subscription, desired, at, key) -> None:
        if desired.kind not in {conformance.ChangeKind.PAUSE, conformance.ChangeKind.REACTIVATE}:
            self.remote.done.clear()
            await super().change(next(iter(self.remote.subscriptions), subscription), desired, at, key)


@pytest.mark.parametrize(
    "check",
    [
        conformance.opens_once_for_each_key,
        conformance.quotes_without_changing,
        conformance.cancels_at_the_period_end_and_reactivates,
        conformance.pauses_and_resumes,
        conformance.cancels_all_of_a_customer_twice,
    ],
    ids=lambda check: check.__name__,
)
async def test_a_nonconforming_provider_fails_the_check(check) -> None:
    rig = AcmePayRig()
    rig.provider = Forgetful(rig.remote)

    with pytest.raises(NonConformingError):
        await check(rig)


ABOUT = {"object_type": "subscription", "object_id": "acs_1", "customer": "acc_1", "target": "acs_1"}


class Trusting:
    """Inbound that accepts every message."""

    def receive(self, _body, _headers, now):
        return Delivery("ace_1", "changed", now, None, livemode=True, **ABOUT)


async def test_a_provider_that_accepts_unsigned_messages_fails_the_check() -> None:
    rig = AcmePayRig()
    rig.inbound = Trusting()

    with pytest.raises(NonConformingError, match="without a signature"):
        await conformance.refuses_forged_messages(rig)


def test_the_plan_of_these_tests_has_a_price() -> None:
    assert PLAN.prices[0].amount == EUR_20
