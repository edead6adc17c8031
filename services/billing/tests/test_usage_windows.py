"""Tests of usage windows on real servers: opening, consumption, closing, reporting and counting at the provider."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from billing_samples import CONTENT, EMAIL, published
from billing_testbed import Publisher
from fastapi import APIRouter
from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.consumer import HANDLERS
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.providers.port import MeterReading, ProviderRefusedError, Providers, ProviderUnavailableError
from paybill_billing.settings import Settings
from paybill_billing.subscriptions.tables import ACCOUNTS
from paybill_billing.tables import STATES
from paybill_billing.usage.api import usage as usage_api
from paybill_billing.usage.api import windows
from paybill_billing.usage.domain import publishers
from paybill_billing.usage.domain.windows import bounds
from paybill_billing.usage.jobs import JOBS, WindowCloser
from paybill_billing.usage.tables import PUBLISHERS
from paybill_contracts.billing import AccountOpened, AccountRegistered, EntitlementsSet, PublisherGrant
from paybill_contracts.catalogue import PlanRef, Window
from paybill_contracts.envelope import IntakeEvent, Origin, intake_headers, intake_subject
from paybill_contracts.metering import UsageWindowOpened
from paybill_contracts.placement import Preset
from paybill_contracts.usage import Usage
from paybill_runtime.app import Service
from paybill_runtime.clock import new_id
from paybill_runtime.jobs.kinds import RetryAfter
from paybill_runtime.messaging.streams import connect
from paybill_runtime.replay.verify import replay
from paybill_runtime.telemetry import child
from paybill_runtime.testing import until
from usage_samples import feature, meter_definition

TENANT = "ten_" + "d" * 32
CUSTOMER = "cus_1"
LATER = datetime.now(UTC) + timedelta(days=70)
QUOTA = 10


class AtProvider:
    """A provider's meters in memory. They keep idempotency keys, and can be unavailable, refuse or lose answers."""

    def __init__(self):
        self.readings = {}
        self.calls = []
        self.raises = []
        self.lost_answers = 0

    async def report(self, reading, key):
        self.calls.append(key)
        if self.raises:
            raise self.raises.pop(0)
        self.readings.setdefault(key, reading)
        if self.lost_answers:
            self.lost_answers -= 1
            raise ProviderUnavailableError(0.05, "the answer was lost")

    async def reported(self, meter, customer, since, until):
        mine = [r for r in self.readings.values() if (r.meter, r.customer) == (meter, customer)]
        return sum(reading.quantity for reading in mine if since <= reading.at < until)


class Metered:
    """Billing with the routes and jobs of usage, and a publisher."""

    def __init__(self, served, client, metering, provider, log):
        self.served, self.client, self.metering, self.provider, self.log = served, client, metering, provider, log
        self.closing = WindowCloser(served.running.context)

    async def report(self, quantity=1, id_=None, **changes):
        values = {"tenant_id": TENANT, "meter": "calls", "quantity": quantity, "occurred_at": datetime.now(UTC)}
        return await self.metering.submit(Usage(**{**values, **changes}), id_=id_)

    async def report_raw(self, payload):
        """Publishes any payload, as another program can; our own library refuses to send invalid ones."""
        valid = Usage(tenant_id=TENANT, meter="calls", quantity=1, occurred_at=datetime.now(UTC))
        headers = intake_headers(IntakeEvent(valid, new_id(), "metering", datetime.now(UTC), child(None)))
        await self.client.jetstream().publish(intake_subject("metering", valid), payload, headers=headers)

    async def consume(self, quantity=1, key=None, **more):
        headers = {"Idempotency-Key": key or new_id()}
        body = {"meter": "calls", "quantity": quantity, **more}
        return await self.served.client.post(f"/v1/tenants/{TENANT}/usage/consume", json=body, headers=headers)

    async def allowance(self):
        answer = await self.served.client.get(f"/v1/tenants/{TENANT}/usage")
        assert answer.status_code == 200, answer.text
        return answer.json()["meters"][0]

    async def windows(self, **query):
        answer = await self.served.client.get("/v1/usage/windows", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["windows"]

    async def window(self, status):
        async def first():
            found = await self.windows(status=status)
            return found[0] if found else None

        return await until(first)

    async def _closed(self):
        with suppress(RetryAfter):  # usage waits in INTAKE
            return await self.closing.tick(LATER)

    async def close(self):
        """Closes all windows, as soon as there is one."""
        await until(self._closed)


@pytest.fixture
def definition():
    """Settings of the meter, which tests may replace."""
    return {"provider_meters": {"stripe": "api_calls"}}


@pytest.fixture
async def metered(start, nats, log, tmp_path, definition):
    provider = AtProvider()
    service = Service(
        name="billing",
        settings=Settings,
        states=STATES,
        subscriptions=HANDLERS,
        jobs=JOBS,
        router=_router,
        effects=lambda _settings, _secrets: Providers({"stripe": provider}),
        on_start=(lambda context: _subscribed(context, definition),),
    )
    served = await start(service)
    client = await connect(nats.url, "metering", nats.password("metering"))
    found = Metered(served, client, Publisher(client, tmp_path), provider, log)
    yield found
    await found.closing.disconnect()
    await client.close()


def _router(context):
    routes = APIRouter()
    routes.include_router(usage_api.router(context))
    routes.include_router(windows.router(context))
    return routes


async def _subscribed(context, definition):
    content = CONTENT.model_copy(update={"meters": (meter_definition(**definition),)})
    about = {"tenant_id": TENANT}
    grant = PublisherGrant(publisher="metering", all_tenants=True, tenants=())

    def decide(unit, _):
        unit.record(CATALOGUES, catalogue.CATALOGUE, catalogue.publish(None, content))
        unit.record(PUBLISHERS, publishers.PUBLISHERS, publishers.allow(None, [grant]))
        account = AccountRegistered(
            **about, name="Acme", contact_email=EMAIL, plan="pro", plan_version=1, provider="stripe", retention_s=0
        )
        opened = AccountOpened(
            **about, provider="stripe", customer=CUSTOMER, checkout="cs_1", checkout_url="http://127.0.0.1/c"
        )
        unit.record(ACCOUNTS, TENANT, [account, opened])
        entitled = EntitlementsSet(
            **about,
            subscription_id="sub_" + "1" * 32,
            plan=PlanRef(plan="pro", version=1, catalogue_hash=published(content).content_hash),
            tier="pro",
            placement=Preset.POOLED,
            features=(feature(quota=QUOTA, included=0),),
            allows_access=True,
            entitlements_hash="c" * 64,
        )
        unit.record(ENTITLEMENTS, TENANT, [entitled])

    await context.decide(
        Origin("start", "start", "service:billing", ""),
        decide,
        writes=[
            CATALOGUES.key(catalogue.CATALOGUE),
            PUBLISHERS.key(publishers.PUBLISHERS),
            ACCOUNTS.key(TENANT),
            ENTITLEMENTS.key(TENANT),
        ],
    )


async def test_concurrent_consumers_never_exceed_the_quota(metered):
    answers = await asyncio.gather(*(metered.consume() for _ in range(3 * QUOTA)))

    allowed = [answer.json()["allowed"] for answer in answers]
    refusals = {answer.json()["refusal"] for answer in answers}
    assert (sum(allowed), refusals) == (QUOTA, {None, "quota_exceeded"})
    assert (await metered.allowance())["remaining"] == 0
    facts = await metered.log.facts("billing.usage_recorded", at_least=QUOTA)
    assert len(facts) == QUOTA
    quota_facts = await metered.log.facts("billing.quota_warned", "billing.quota_exceeded", at_least=2)
    assert [fact.event.value for fact in quota_facts] == [8, QUOTA]


async def test_consume_is_idempotent_and_refused_without_a_key(metered):
    first, again = await metered.consume(4, key="k"), await metered.consume(4, key="k")
    without_key = await metered.served.client.post(f"/v1/tenants/{TENANT}/usage/consume", json={"meter": "calls"})

    assert first.json() == again.json()
    assert (first.json()["value"], first.json()["remaining"], first.json()["quota"]) == (4, 6, QUOTA)
    assert (without_key.status_code, without_key.json()["code"]) == (400, "idempotency_key_missing")
    assert (await metered.allowance())["value"] == 4


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"meter": "disk"}, 422, "unknown_meter"),
        ({"meter": "calls", "quantity": 0}, 422, "invalid_request"),
        ({"meter": "calls", "quantity": -1}, 422, "invalid_request"),
        ({"meter": "calls", "of": "a\nb"}, 422, "invalid_request"),
        ({"meter": "calls", "more": 1}, 422, "invalid_request"),
    ],
    ids=["unknown meter", "zero", "negative", "line break", "unknown field"],
)
async def test_invalid_consumption_is_refused_with_a_code(metered, body, status, code):
    headers = {"Idempotency-Key": "k"}
    answer = await metered.served.client.post(f"/v1/tenants/{TENANT}/usage/consume", json=body, headers=headers)
    unknown = await metered.served.client.post(
        f"/v1/tenants/ten_{'e' * 32}/usage/consume", json={"meter": "calls"}, headers=headers
    )

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_tenant")


async def test_a_window_closes_after_all_usage_in_the_intake_is_counted(metered):
    await asyncio.gather(*(metered.report() for _ in range(300)))

    await metered.close()

    (window,) = await metered.windows()
    assert (window["value"], window["records"]) == (300, 300)
    opened = await metered.log.facts("billing.usage_window_opened")
    (closed,) = await metered.log.facts("billing.usage_window_closed")
    assert isinstance(opened[0].event, UsageWindowOpened)
    assert (closed.event.value, closed.event.catalogue_hash) == (300, opened[0].event.catalogue_hash)


async def test_a_window_is_reported_once_although_the_provider_s_answers_are_lost(metered):
    metered.provider.lost_answers = 2
    for _ in range(2):
        await metered.report(7, id_="0190a5b0-0000-7000-8000-00000000000a")
    await metered.report(5)

    await metered.close()
    window = await metered.window("reported")
    await metered.served.client.post(f"/v1/usage/windows/{window['id']}/count")

    async def counted():
        answer = await metered.served.client.get(f"/v1/usage/windows/{window['id']}")
        return answer.json()["counted"]

    assert await until(counted) == 12 == window["reported"]
    (reading,) = metered.provider.readings.values()
    assert (reading.customer, reading.meter, reading.quantity) == (CUSTOMER, "api_calls", 12)
    assert window["start"] <= reading.at.isoformat() < window["end"]
    # The first attempt's answer was lost; the second attempt read the provider's count and sent nothing.
    assert len(metered.provider.calls) == 1
    (fact,) = await metered.log.facts("billing.usage_reported")
    (part,) = await metered.log.facts("billing.usage_part_closed")
    assert fact.origin.cause == part.id


async def test_a_refused_report_is_a_fact_and_can_be_retried(metered):
    metered.provider.raises = [ProviderRefusedError("Stripe has no active meter of this name")]
    await metered.report(3)
    await metered.close()
    failed = await metered.window("failed")

    answer = await metered.served.client.post(f"/v1/usage/windows/{failed['id']}/report")
    reported = await metered.window("reported")

    assert "no active meter" in failed["failure"]
    assert answer.status_code == 202
    assert (reported["reported"], reported["failure"], len(metered.provider.readings)) == (3, None, 1)
    assert len(set(metered.provider.calls)) == 1  # the same key both times
    again = await metered.served.client.post(f"/v1/usage/windows/{failed['id']}/report")
    assert (again.status_code, len(metered.provider.calls)) == (202, 2)


async def test_a_window_is_not_reported_on_top_of_another_program_s_count(metered):
    last = bounds(Window.MONTH, datetime.now(UTC))[1] - timedelta(seconds=1)
    metered.provider.readings["another"] = MeterReading(CUSTOMER, "api_calls", 99, last)
    await metered.report(3)
    await metered.close()

    failed = await metered.window("failed")

    assert "has counted 99 at the time of this usage, but 3 was used" in failed["failure"]
    assert metered.provider.calls == []


@pytest.mark.parametrize("definition", [{}], ids=["no provider meter"])
async def test_a_window_without_a_provider_meter_is_closed_and_not_reported(metered):
    await metered.report(3)
    await metered.close()

    window = await metered.window("unbilled")
    answers = [
        await metered.served.client.post(f"/v1/usage/windows/{window['id']}/{verb}") for verb in ("report", "count")
    ]

    assert [answer.json()["code"] for answer in answers] == ["window_not_reported"] * 2
    assert metered.provider.calls == []


async def test_usage_for_a_closed_window_is_quarantined_and_later_usage_is_processed(metered):
    at = datetime.now(UTC)
    await metered.report(3)
    await metered.close()

    await metered.report(4, occurred_at=at)
    await metered.report(5, occurred_at=at, meter="disk")

    facts = await metered.log.facts("billing.intake_quarantined", at_least=2)
    assert "came too late: that window closed at" in facts[0].event.reason
    assert "does not count disk" in facts[1].event.reason
    (window,) = await metered.windows()
    assert window["value"] == 3


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ({"quantity": -1}, "quantity"),
        ({"quantity": 1.5}, "quantity"),
        ({"occurred_at": "2020-01-01T00:00:00Z"}, "from 35 days ago"),
        ({"occurred_at": "9999-12-31T23:59:59Z"}, "5 minutes ahead"),
        ({"tenant_id": "ten_" + "e" * 32}, "there is no tenant"),
        ({"meter": "disk"}, "does not count disk"),
        ({"quantity": 10**14}, "at most 10^12"),
    ],
    ids=["negative", "fraction", "far past", "far future", "unknown tenant", "unknown meter", "too large"],
)
async def test_invalid_usage_is_quarantined_with_the_reason_and_later_usage_counts(metered, edit, why):
    valid = {"tenant_id": TENANT, "meter": "calls", "quantity": 2, "occurred_at": datetime.now(UTC).isoformat()}
    await metered.report_raw(json.dumps(valid | edit).encode())
    await metered.report(2)

    (fact,) = await metered.log.facts("billing.intake_quarantined")

    async def counted():
        return (await metered.allowance())["value"]

    assert await until(counted) == 2
    assert why in fact.event.reason
    listed = (await metered.served.client.get("/v1/operations/quarantine")).json()
    assert [row["quarantine_id"] for row in listed] == [fact.event.quarantine_id]


@pytest.mark.parametrize("definition", [{"aggregation": "unique", "window": "day"}], ids=["unique"])
async def test_a_distinct_item_is_counted_once_per_window_over_reports_and_consumption(metered):
    for of in ("ada", "bob", "ada"):
        await metered.report(of=of)

    async def counted():
        found = await metered.allowance()
        return found if found["records"] == 3 else None

    await until(counted)
    again, new = await metered.consume(of="bob"), await metered.consume(of="eve")

    assert (again.json()["value"], new.json()["value"]) == (2, 3)
    facts = await metered.log.facts("billing.usage_member_counted", at_least=3)
    assert len({fact.event.member for fact in facts}) == 3


async def test_usage_replays_to_the_same_tables(metered):
    metered.provider.raises = [ProviderRefusedError("no")]
    for _ in range(12):
        await metered.report()
    await metered.close()
    failed = await metered.window("failed")
    await metered.served.client.post(f"/v1/usage/windows/{failed['id']}/report")
    await metered.window("reported")
    await metered.consume(key="k")
    running = metered.served.running

    report = await replay(running.service, running.settings, running.database)

    assert report.equal, report.as_dict()
