"""Customers who pay by invoice, from sign-up to offboarding, on real PostgreSQL and NATS."""

import pytest
from billing_samples import NOW
from paybill_billing.app import service
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted
from paybill_runtime.replay.verify import replay
from paybill_runtime.testing import until

TENANT = "ten_" + "c" * 32
CONTRACT = "con_" + "c" * 32
PLAN = """
product: shop
plans:
  - plan: starter
    version: 1
    name: Starter
    tier: starter
    placement: pooled
    grace: {grace}
    retention: 30d
    features: []
    prices:
      - {{ minor: 3000, currency: EUR, interval: month }}
      - {{ minor: 30000, currency: EUR, interval: year }}
"""


def plans(grace):
    return pytest.mark.parametrize("catalogue", [PLAN.format(grace=grace)], indirect=True)


class Manual:
    """Actions of an operator for one customer."""

    def __init__(self, testbed):
        self.testbed = testbed
        self.client = testbed.served.client

    async def sign_up(self, tenant_id=TENANT):
        await self.testbed.tenants.request_tenant(tenant_id, payment="manual")
        return await self.testbed.opened(tenant_id)

    async def post(self, path, body, status=200, **query):
        response = await self.client.post(f"/v1/manual/{path}", json=body, params=query)
        assert response.status_code == status, response.text
        return response.json()

    async def accept(self, **more):
        return await self.post(f"contracts/{TENANT}/accept", {"order": "PO 7", **more})

    async def show(self):
        return await self.testbed.get(f"/v1/manual/contracts/{TENANT}")


@pytest.fixture
async def testbed(testbed_of):
    return await testbed_of(service())


@pytest.fixture
async def operator(testbed):
    return Manual(testbed)


async def test_an_order_gives_access_before_the_first_payment(testbed, operator):
    account = await operator.sign_up()
    offers = (await testbed.get("/v1/manual/offers"))["offers"]
    preview = await operator.accept(quantity=2)

    subscription = await testbed.subscription(TENANT, "active")

    assert (account["provider"], account["customer"]) == ("manual", CONTRACT)
    assert account["checkout_url"].endswith(CONTRACT)
    assert [offer["offer"]["terms"]["unit_price"]["minor"] for offer in offers] == [2900]
    assert preview["invoices"][0]["total"] == {"minor": 5800, "currency": "EUR"}
    assert (subscription["quantity"], subscription["plan"]["plan"], subscription["interval"]) == (2, "starter", "month")
    assert (await testbed.get("/v1/manual/offers"))["offers"] == []
    entitlements = await testbed.get(f"/v1/tenants/{TENANT}/entitlements")
    assert entitlements["allows_access"]


async def test_a_dry_run_records_nothing_and_a_repeated_order_is_idempotent(testbed, operator):
    await operator.sign_up()

    preview = await operator.post(f"contracts/{TENANT}/accept", {"order": "PO 7"}, dry_run=True)
    before = await operator.show()
    first = await operator.accept()
    second = await operator.accept()

    assert preview["contract"]["order"] == "PO 7"
    assert before["contract"] is None
    assert first["contract"] == second["contract"]
    assert len(second["invoices"]) == 1


@plans("1h")
async def test_an_overdue_invoice_starts_the_grace_period_and_its_payment_recovers_access(testbed, operator):
    await operator.sign_up()
    accepted = await operator.accept(payment_days=0)
    (invoice,) = accepted["invoices"]

    grace = await testbed.subscription(TENANT, "grace")
    await operator.post(f"invoices/{invoice['invoice_id']}/paid", {"reference": "bank 1"})
    recovered = await testbed.subscription(TENANT, "active")

    assert grace["provider_status"] == "past_due"
    assert recovered["paid_until"] == recovered["period_end"]
    (found,) = (await testbed.get("/v1/manual/invoices", tenant_id=TENANT))["invoices"]
    assert (found["status"], found["reference"], found["tenant_id"]) == ("paid", "bank 1", TENANT)
    assert (await testbed.get("/v1/manual/invoices", status="overdue"))["invoices"] == []


@plans("1s")
async def test_access_ends_after_the_grace_period_and_voiding_the_invoice_restores_it(testbed, operator):
    await operator.sign_up()
    (invoice,) = (await operator.accept(payment_days=0))["invoices"]

    await testbed.subscription(TENANT, "suspended")
    await operator.post(f"invoices/{invoice['invoice_id']}/void", {"reason": "sent twice"})
    await testbed.subscription(TENANT, "active")

    refused = await operator.post(f"invoices/{invoice['invoice_id']}/paid", {"reference": "x"}, status=409)
    assert refused["code"] == "invoice_settled"


async def test_a_manual_contract_is_quoted_and_changed_like_any_subscription(testbed, operator):
    await operator.sign_up()
    await operator.accept()
    subscription = await testbed.subscription(TENANT, "active")

    change = {"kind": "plan", "quantity": 3, "when": "now", "reason": "grows", "confirm": True}
    response = await testbed.served.client.post(
        f"/v1/subscriptions/{subscription['subscription_id']}/changes", json=change
    )
    assert response.status_code == 202, response.text

    async def grown():
        found = await testbed.subscription(TENANT, "active")
        return found if found["quantity"] == 3 else None

    await until(grown)
    invoices = (await operator.show())["invoices"]
    assert [invoice["total"]["minor"] for invoice in invoices] == [2900, 5800]


async def test_a_quotation_can_be_replaced_and_invalid_requests_are_refused(testbed, operator):
    await operator.sign_up()
    other = "ten_" + "d" * 32

    made = await operator.post(f"contracts/{TENANT}/offer", {"plan": "team", "quantity": 4, "valid_days": 5})
    again = await operator.post(f"contracts/{TENANT}/offer", {})
    other_plan = await operator.post(f"contracts/{TENANT}/offer", {"plan": "starter"})

    assert (made["offer"]["terms"]["plan"], made["offer"]["terms"]["quantity"]) == ("team", 4)
    assert again["offer"]["terms"] == made["offer"]["terms"]
    assert again["offer"]["valid_until"] > made["offer"]["valid_until"]
    assert (other_plan["offer"]["terms"]["plan"], other_plan["offer"]["terms"]["quantity"]) == ("starter", 1)
    for path, body, status, code in (
        (f"contracts/{TENANT}/offer", {"plan": "gold"}, 404, "unknown_plan"),
        (f"contracts/{TENANT}/accept", {"order": "PO 1", "quantity": 0}, 422, "invalid_request"),
        (f"contracts/{other}/accept", {"order": "PO 1"}, 404, "no_contract"),
        (f"contracts/{other}/offer", {}, 404, "unknown_tenant"),
        (f"invoices/inv_{TENANT[4:]}_1/paid", {"reference": "x"}, 404, "unknown_invoice"),
        (f"contracts/{TENANT}/accept", {"order": "a\nb"}, 422, "invalid_request"),
    ):
        assert (await operator.post(path, body, status))["code"] == code, path


async def test_a_leaving_customer_is_cancelled_and_its_invoices_stay_open(testbed, operator):
    await operator.sign_up()
    await operator.accept()
    await testbed.subscription(TENANT, "active")

    await testbed.tenants.publish(
        OffboardingStarted(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="bye", retain_until=NOW)
    )
    await testbed.subscription(TENANT, "ended")

    contract = await operator.show()
    assert (contract["contract"]["status"], contract["invoices"][0]["status"]) == ("cancelled", "open")
    refused = await operator.post(f"contracts/{TENANT}/offer", {}, status=409)
    assert refused["code"] == "customer_leaves"


async def test_the_log_replays_to_the_same_tables(testbed, operator):
    await operator.sign_up()
    (invoice,) = (await operator.accept(payment_days=0))["invoices"]
    await testbed.subscription(TENANT, "grace")
    await operator.post(f"invoices/{invoice['invoice_id']}/paid", {"reference": "bank 1"})
    await testbed.subscription(TENANT, "active")
    running = testbed.served.running

    report = await replay(running.service, running.settings, running.database)

    assert report.equal, report.as_dict()
