"""Money that goes back is told once, with whose it was and what for, whatever form its messages have."""

import asyncio
import json

import pytest
from billing_world import API_KEY
from paybill_billing.providers.port import ResolvedReference
from paybill_billing.providers.stripe.resolver import StripeReferenceResolver
from paybill_contracts.money import Money
from paybill_runtime.replay.verify import replay
from stripe import HTTPXClient, StripeClient

TENANT = "ten_" + "d" * 32
PAYLOADS = ("snapshot", "thin", "both")


@pytest.fixture
async def payer(world):
    """A tenant that subscribed, and the payment for it."""
    subscription = await world.subscribed(TENANT)
    stripe = world.fake.stripe
    invoice = stripe.subscriptions.retrieve(subscription["provider_subscription"]).latest_invoice
    (payment,) = stripe.invoice_payments.list({"invoice": invoice}).data
    (charge,) = stripe.charges.list({"payment_intent": payment.payment.payment_intent}).data
    return subscription, invoice, charge


async def told(world, *types, at_least=1):
    await world.quiet()
    facts = await world.log.facts(*(f"billing.{type_}" for type_ in types), at_least=at_least)
    return [fact.event for fact in facts]


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_a_refund_is_told_once_with_the_subscription_and_the_invoice_that_were_paid(world, payer, payload):
    subscription, invoice, charge = payer
    await asyncio.to_thread(world.fake.control.set_payload, payload)
    await asyncio.to_thread(lambda: world.fake.control.faults(duplicate=2, reorder=True))

    world.fake.stripe.refunds.create({"charge": charge.id, "amount": 900, "reason": "requested_by_customer"})
    world.fake.stripe.refunds.create({"charge": charge.id, "amount": 100})

    said = await told(world, "payment_refunded", at_least=2)
    assert [(fact.amount.minor, fact.reason) for fact in sorted(said, key=lambda fact: -fact.amount.minor)] == [
        (900, "requested_by_customer"),
        (100, None),
    ]
    assert {(fact.tenant_id, fact.provider, fact.subscription_id, fact.invoice) for fact in said} == {
        (TENANT, "stripe", subscription["subscription_id"], invoice)
    }
    running = world.served.running
    assert (await replay(running.service, running.settings, running.database)).equal


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_a_dispute_is_told_when_it_is_opened_and_when_it_is_closed(world, payer, payload):
    subscription, invoice, charge = payer
    control = world.fake.control
    await asyncio.to_thread(control.set_payload, payload)

    dispute = await asyncio.to_thread(control.dispute, charge.id)
    (opened,) = await told(world, "payment_disputed")
    await asyncio.to_thread(control.close_dispute, dispute["id"], "lost")
    (closed,) = await told(world, "dispute_closed")

    assert (opened.payment, opened.reason, opened.amount) == (
        dispute["id"],
        "fraudulent",
        Money(minor=2900, currency="EUR"),
    )
    assert int(opened.respond_by.timestamp()) == dispute["evidence_details"]["due_by"]
    assert (opened.subscription_id, opened.invoice) == (subscription["subscription_id"], invoice)
    assert (closed.payment, closed.outcome, closed.amount) == (dispute["id"], "lost", opened.amount)


async def test_a_dispute_whose_opening_was_lost_is_told_whole(world, payer):
    _, _, charge = payer
    control = world.fake.control
    await asyncio.to_thread(lambda: control.faults(lose=["charge.dispute.created", "charge.dispute.funds_withdrawn"]))
    dispute = await asyncio.to_thread(control.dispute, charge.id)

    await asyncio.to_thread(control.close_dispute, dispute["id"], "won")

    said = await told(world, "payment_disputed", "dispute_closed", at_least=2)
    assert [fact.TYPE for fact in said] == ["billing.payment_disputed", "billing.dispute_closed"]
    assert said[1].outcome == "won"


async def test_a_refund_of_something_else_than_a_subscription_is_told_of_the_tenant_alone(world, payer):
    stripe, customer = world.fake.stripe, (await world.account(TENANT))["customer"]
    intent = stripe.payment_intents.create(
        {"amount": 500, "currency": "eur", "customer": customer, "payment_method": "pm_card_visa", "confirm": True}
    )

    stripe.refunds.create({"payment_intent": intent.id})

    (fact,) = await told(world, "payment_refunded")
    assert (fact.tenant_id, fact.subscription_id, fact.invoice) == (TENANT, None, None)


class Canned(HTTPXClient):
    """Answers of Stripe, by path; everything else is not there. It says which were asked for."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers
        self.asked = []

    async def request_async(self, _method, url, _headers, post_data=None):  # noqa: ARG002  # the library names it
        path = url.partition("://")[2].partition("/")[2].partition("?")[0]
        self.asked.append(path)
        if path in self.answers:
            return json.dumps(self.answers[path]).encode(), 200, {}
        return b'{"error": {"code": "resource_missing", "message": "none"}}', 404, {}


@pytest.fixture
async def canned():
    """What an account of another version answers."""
    clients = []

    def traces(answers):
        clients.append(Canned(answers))
        return StripeReferenceResolver(StripeClient(API_KEY, http_client=clients[-1], max_network_retries=0)), clients[
            -1
        ]

    yield traces
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
    ("answers", "subscription", "invoice", "customer"),
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
    ids=["2020", "2025", "without a charge", "no invoices there", "nothing known"],
)
async def test_where_a_refund_belongs_is_found_in_every_version(canned, answers, subscription, invoice, customer):
    traces, _ = canned(answers)

    trail = await traces.resolve("refund", "re_1")

    assert (trail.subscription, trail.invoice, trail.customer) == (subscription, invoice, customer)
    assert [returned.id for returned in trail.returned] == ["re_1"]


async def test_a_refund_that_failed_gave_nothing_back(canned):
    traces, _ = canned({"v1/refunds/re_1": {**REFUND, "status": "failed"}})

    assert (await traces.resolve("refund", "re_1")).returned == ()


async def test_an_alert_about_a_lost_event_leads_to_what_the_event_was_about(canned):
    alert = {
        "id": "evt_1",
        "object": "v2.core.event",
        "data": {"impact": {"event_type": "x", "related_object": {"id": "sub_1", "type": "subscription"}}},
    }
    traces, _ = canned({"v2/core/events/evt_1": alert})

    assert await traces.resolve("event", "evt_1") == ResolvedReference(target="sub_1")
    assert await traces.resolve("event", "evt_2") is None
    assert await traces.resolve("product", "prod_1") == ResolvedReference()


async def test_items_that_were_cut_off_and_the_schedule_are_asked_for(canned):
    items = [{"id": f"si_{number}"} for number in range(12)]
    schedule = {"id": "sub_sched_1", "phases": []}
    traces, client = canned({"v1/subscription_items": page(*items), "v1/subscription_schedules/sub_sched_1": schedule})
    cut = {"id": "sub_1", "items": {**page(*items[:10]), "has_more": True}, "schedule": "sub_sched_1"}

    complete = await traces.complete(cut)

    assert (complete["items"]["data"], complete["schedule"]) == (items, schedule)
    client.asked.clear()
    assert await traces.complete({"id": "sub_1", "items": page(*items[:10]), "schedule": None})
    assert client.asked == []
