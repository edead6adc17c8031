"""Refunds and disputes are recorded once, with tenant, subscription and invoice, for all payload formats."""

import asyncio
import json

import pytest
from billing_testbed import API_KEY
from paybill_billing.providers.port import ResolvedReference
from paybill_billing.providers.stripe.resolver import StripeReferenceResolver
from paybill_contracts.money import Money
from paybill_runtime.replay.verify import replay
from stripe import HTTPXClient, StripeClient

TENANT = "ten_" + "d" * 32
PAYLOADS = ("snapshot", "thin", "both")


@pytest.fixture
async def payer(testbed):
    """A subscribed tenant and its payment."""
    subscription = await testbed.subscribed(TENANT)
    stripe = testbed.fake.stripe
    invoice = stripe.subscriptions.retrieve(subscription["provider_subscription"]).latest_invoice
    (payment,) = stripe.invoice_payments.list({"invoice": invoice}).data
    (charge,) = stripe.charges.list({"payment_intent": payment.payment.payment_intent}).data
    return subscription, invoice, charge


async def recorded(testbed, *types, at_least=1):
    await testbed.settled()
    facts = await testbed.log.facts(*(f"billing.{type_}" for type_ in types), at_least=at_least)
    return [fact.event for fact in facts]


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_a_refund_is_recorded_once_with_its_subscription_and_invoice(testbed, payer, payload):
    subscription, invoice, charge = payer
    await asyncio.to_thread(testbed.fake.control.set_payload, payload)
    await asyncio.to_thread(lambda: testbed.fake.control.faults(duplicate=2, reorder=True))

    testbed.fake.stripe.refunds.create({"charge": charge.id, "amount": 900, "reason": "requested_by_customer"})
    testbed.fake.stripe.refunds.create({"charge": charge.id, "amount": 100})

    events = await recorded(testbed, "payment_refunded", at_least=2)
    assert [(fact.amount.minor, fact.reason) for fact in sorted(events, key=lambda fact: -fact.amount.minor)] == [
        (900, "requested_by_customer"),
        (100, None),
    ]
    assert {(fact.tenant_id, fact.provider, fact.subscription_id, fact.invoice) for fact in events} == {
        (TENANT, "stripe", subscription["subscription_id"], invoice)
    }
    running = testbed.served.running
    assert (await replay(running.service, running.settings, running.database)).equal


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_a_dispute_is_recorded_when_it_opens_and_when_it_closes(testbed, payer, payload):
    subscription, invoice, charge = payer
    control = testbed.fake.control
    await asyncio.to_thread(control.set_payload, payload)

    dispute = await asyncio.to_thread(control.dispute, charge.id)
    (opened,) = await recorded(testbed, "payment_disputed")
    await asyncio.to_thread(control.close_dispute, dispute["id"], "lost")
    (closed,) = await recorded(testbed, "dispute_closed")

    assert (opened.payment, opened.reason, opened.amount) == (
        dispute["id"],
        "fraudulent",
        Money(minor=2900, currency="EUR"),
    )
    assert int(opened.respond_by.timestamp()) == dispute["evidence_details"]["due_by"]
    assert (opened.subscription_id, opened.invoice) == (subscription["subscription_id"], invoice)
    assert (closed.payment, closed.outcome, closed.amount) == (dispute["id"], "lost", opened.amount)


async def test_a_dispute_with_a_lost_opening_event_is_recorded_completely(testbed, payer):
    _, _, charge = payer
    control = testbed.fake.control
    await asyncio.to_thread(lambda: control.faults(lose=["charge.dispute.created", "charge.dispute.funds_withdrawn"]))
    dispute = await asyncio.to_thread(control.dispute, charge.id)

    await asyncio.to_thread(control.close_dispute, dispute["id"], "won")

    events = await recorded(testbed, "payment_disputed", "dispute_closed", at_least=2)
    assert [fact.TYPE for fact in events] == ["billing.payment_disputed", "billing.dispute_closed"]
    assert events[1].outcome == "won"


async def test_a_refund_without_a_subscription_is_recorded_for_the_tenant(testbed, payer):
    stripe, customer = testbed.fake.stripe, (await testbed.account(TENANT))["customer"]
    intent = stripe.payment_intents.create(
        {"amount": 500, "currency": "eur", "customer": customer, "payment_method": "pm_card_visa", "confirm": True}
    )

    stripe.refunds.create({"payment_intent": intent.id})

    (fact,) = await recorded(testbed, "payment_refunded")
    assert (fact.tenant_id, fact.subscription_id, fact.invoice) == (TENANT, None, None)


class Canned(HTTPXClient):
    """HTTP client with canned responses by path and 404 for any other; it records the requested paths."""

    def __init__(self, responses):
        super().__init__()
        self.responses = responses
        self.requested = []

    async def request_async(self, _method, url, _headers, post_data=None):  # noqa: ARG002  # the library names it
        path = url.partition("://")[2].partition("/")[2].partition("?")[0]
        self.requested.append(path)
        if path in self.responses:
            return json.dumps(self.responses[path]).encode(), 200, {}
        return b'{"error": {"code": "resource_missing", "message": "none"}}', 404, {}


@pytest.fixture
async def canned():
    """Resolvers with the canned responses of another API version."""
    clients = []

    def resolver_of(responses):
        clients.append(Canned(responses))
        return StripeReferenceResolver(StripeClient(API_KEY, http_client=clients[-1], max_network_retries=0)), clients[
            -1
        ]

    yield resolver_of
    for client in clients:
        await client.close_async()


REFUND = {"id": "re_1", "object": "refund", "amount": 100, "currency": "eur", "status": "succeeded", "reason": None}
INVOICE_OF_2020 = {"id": "in_1", "object": "invoice", "customer": "cus_1", "subscription": "sub_1"}
INVOICE = {
    "id": "in_1",
    "object": "invoice",
    "customer": "cus_1",
    "parent": {"subscription_details": {"subscription": "sub_1"}},
}


def page(*data):
    return {"object": "list", "data": list(data), "has_more": False}


@pytest.mark.parametrize(
    ("responses", "subscription", "invoice", "customer"),
    [
        (
            {
                "v1/refunds/re_1": {**REFUND, "charge": {"id": "ch_1", "customer": "cus_1", "invoice": "in_1"}},
                "v1/invoices/in_1": INVOICE_OF_2020,
            },
            "sub_1",
            "in_1",
            "cus_1",
        ),
        (
            {
                "v1/refunds/re_1": {**REFUND, "charge": {"id": "ch_1", "customer": "cus_1", "payment_intent": "pi_1"}},
                "v1/invoice_payments": page({"id": "inpay_1", "invoice": INVOICE}),
            },
            "sub_1",
            "in_1",
            "cus_1",
        ),
        (
            {
                "v1/refunds/re_1": {**REFUND, "charge": None, "payment_intent": "pi_1"},
                "v1/invoice_payments": page({"id": "inpay_1", "invoice": INVOICE}),
            },
            "sub_1",
            "in_1",
            "cus_1",
        ),
        (
            {"v1/refunds/re_1": {**REFUND, "charge": {"id": "ch_1", "customer": "cus_1", "payment_intent": "pi_1"}}},
            None,
            None,
            "cus_1",
        ),
        ({"v1/refunds/re_1": {**REFUND, "charge": "ch_1"}}, None, None, None),
    ],
    ids=["2020", "2025", "no charge", "no invoices", "nothing known"],
)
async def test_a_refund_is_resolved_to_its_invoice_in_every_api_version(
    canned, responses, subscription, invoice, customer
):
    resolver, _ = canned(responses)

    reference = await resolver.resolve("refund", "re_1")

    assert (reference.subscription, reference.invoice, reference.customer) == (subscription, invoice, customer)
    assert [reversal.id for reversal in reference.reversals] == ["re_1"]


async def test_a_failed_refund_is_ignored(canned):
    resolver, _ = canned({"v1/refunds/re_1": {**REFUND, "status": "failed"}})

    assert (await resolver.resolve("refund", "re_1")).reversals == ()


async def test_an_alert_about_a_missing_event_is_resolved_to_its_object(canned):
    alert = {
        "id": "evt_1",
        "object": "v2.core.event",
        "data": {"impact": {"event_type": "x", "related_object": {"id": "sub_1", "type": "subscription"}}},
    }
    resolver, _ = canned({"v2/core/events/evt_1": alert})

    assert await resolver.resolve("event", "evt_1") == ResolvedReference(target="sub_1")
    assert await resolver.resolve("event", "evt_2") is None
    assert await resolver.resolve("product", "prod_1") == ResolvedReference()


async def test_further_items_and_the_schedule_of_a_subscription_are_fetched(canned):
    items = [{"id": f"si_{number}"} for number in range(12)]
    schedule = {"id": "sub_sched_1", "phases": []}
    resolver, client = canned(
        {"v1/subscription_items": page(*items), "v1/subscription_schedules/sub_sched_1": schedule}
    )
    cut = {"id": "sub_1", "items": {**page(*items[:10]), "has_more": True}, "schedule": "sub_sched_1"}

    complete = await resolver.complete(cut)

    assert (complete["items"]["data"], complete["schedule"]) == (items, schedule)
    client.requested.clear()
    assert await resolver.complete({"id": "sub_1", "items": page(*items[:10]), "schedule": None})
    assert client.requested == []
