"""Contact digests: equal for one mailbox, useless without the key, and forgotten after their time."""

from dataclasses import replace
from datetime import timedelta

import pytest
from paybill_contracts.catalogue import Catalogue, CataloguePublished, Interval, PlanVersion, Price
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.tenant import ContactForgotten
from paybill_tenant.app import service
from paybill_tenant.domain import offboarding
from paybill_tenant.domain.contacts import contact_digest, normalised
from paybill_tenant.domain.tenants import evolve, next_change
from tenant_samples import ACTIVE, ID, NOW, RETAINED

KEY = bytes(32)


@pytest.mark.parametrize(
    "address",
    ["ada@acme.example", " Ada@ACME.example ", "ada+trial@acme.example", "ADA+2@acme.example", "ada@acme.example."],
)
def test_forms_of_one_mailbox_are_one_address(address) -> None:
    assert normalised(address) == "ada@acme.example"
    assert contact_digest(KEY, address) == contact_digest(KEY, "ada@acme.example")


def test_other_addresses_and_other_keys_have_other_digests() -> None:
    digests = {
        contact_digest(KEY, "ada@acme.example"),
        contact_digest(KEY, "bob@acme.example"),
        contact_digest(KEY, "ada@other.example"),
        contact_digest(bytes(31) + b"1", "ada@acme.example"),
    }

    assert len(digests) == 4


@pytest.mark.parametrize("tenant", [ACTIVE, RETAINED])
def test_a_digest_is_forgotten_after_its_time(tenant) -> None:
    known = replace(tenant, contact_digest="d" * 64, contact_until=NOW, due=NOW)

    assert offboarding.on_time(known, NOW - timedelta(seconds=1)) == []
    (event,) = offboarding.on_time(known, NOW)
    assert event == ContactForgotten(tenant_id=ID)
    assert evolve(known, event) == replace(tenant, due=next_change(tenant))


async def test_tenants_are_found_by_address_without_storing_it(tenant, log, sign_up) -> None:
    first = (await tenant.client.post("/v1/tenants", json=sign_up)).json()
    await tenant.client.post("/v1/tenants", json=sign_up | {"slug": "other", "contact_email": "x@other.example"})
    address = sign_up["contact_email"].replace("@", "+tag@").upper()

    found = (await tenant.client.get("/v1/tenants", params={"email": address})).json()["tenants"]
    nobody = (await tenant.client.get("/v1/tenants", params={"email": "nobody@x.example"})).json()["tenants"]
    requested = (await log.facts("tenant.tenant_requested"))[0].event

    assert [each["id"] for each in found] == [first["id"]]
    assert nobody == []
    assert requested.contact_until is not None
    assert len(requested.contact_digest) == 64


TRIAL = CataloguePublished(
    catalogue="main",
    content=Catalogue(
        product="app",
        plans=tuple(
            PlanVersion(
                plan=name,
                version=1,
                name=name,
                tier="standard",
                placement=Preset.POOLED,
                trial_days=14,
                grace_s=0,
                retention_s=0,
                features=(),
                prices=(Price(amount=Money(minor=1000, currency="EUR"), interval=Interval.MONTH, provider_prices={}),),
            )
            for name in ("pro", "team")
        ),
    ),
    content_hash="c" * 64,
)


@pytest.fixture
def quoted(sign_up):
    """Quotes sign-ups of another tenant; returns the days of trial, and whether the customer had it."""

    async def quote(tenant, **changes):
        answer = await tenant.client.post("/v1/tenants/quote", json=sign_up | {"slug": "second"} | changes)
        return answer.json()["trial_days"], answer.json()["had_trial"]

    return quote


async def test_a_quote_has_no_second_trial_of_a_customer(tenant, publish, log, sign_up, quoted) -> None:
    await publish(TRIAL)
    await log.facts("tenant.offering_noted", at_least=3)
    again = sign_up["contact_email"].replace("@", "+x@")

    first = await quoted(tenant)
    await tenant.client.post("/v1/tenants", json=sign_up)

    assert first == (14, False)
    assert await quoted(tenant, contact_email=again) == (0, True)
    assert await quoted(tenant, plan="team") == (14, False)
    assert await quoted(tenant, contact_email="bob@acme.example") == (14, False)


async def test_a_quote_has_the_trial_that_an_abandoned_sign_up_left(
    start, publish, log, offerings, sign_up, quoted
) -> None:
    tenant = await start(service(), signup_valid_s=1)
    await publish(*offerings, TRIAL)
    await log.facts("tenant.offering_noted", at_least=3)

    await tenant.client.post("/v1/tenants", json=sign_up)
    await log.facts("tenant.tenant_cancelled")

    assert await quoted(tenant) == (14, False)
