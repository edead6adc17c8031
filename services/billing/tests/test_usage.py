"""Usage is counted for tenants and meters that we know, from publishers that may, in a window that can be billed."""

from datetime import timedelta

import pytest
from billing_samples import CATALOGUE, NOW, PRO_1, REQUESTED, SOLD, TENANT, seen
from paybill_billing.domain import accounts, entitlements, subscriptions, usage
from paybill_billing.domain.accounts import UnknownTenantError
from paybill_billing.domain.usage import PublisherNotAllowedError, UnknownMeterError, UsageOutsideWindowError
from paybill_contracts.usage import Usage

ACCOUNT = accounts.evolve(None, *accounts.on_tenant_requested(None, CATALOGUE, REQUESTED))
(ACTIVATED,) = subscriptions.sync(
    None, seen("active"), tenant_id=TENANT, provider="stripe", sold=SOLD, failures=(), now=NOW
)
ENTITLED = entitlements.evolve(None, *entitlements.settle(None, ACTIVATED.subscription, PRO_1))
USED = Usage(tenant_id=TENANT, meter="calls", quantity=3, occurred_at=NOW)


def record(used=USED, **changes):
    values = {
        "meter": None,
        "usage_id": "0190a5b0-0000-7000-8000-000000000001",
        "publisher": "metering",
        "allowed": True,
        "account": ACCOUNT,
        "entitlements": ENTITLED,
        "now": NOW,
    }
    values |= changes
    return usage.record(values.pop("meter"), used, **values)


def test_usage_adds_up():
    meter = usage.evolve(None, *record())
    meter = usage.evolve(meter, *record(meter=meter))

    assert (meter.total, meter.records) == (6, 2)
    assert meter.id == f"{TENANT}:calls"


@pytest.mark.parametrize(
    ("used", "changes", "error"),
    [
        (USED, {"allowed": False}, PublisherNotAllowedError),
        (USED, {"account": None}, UnknownTenantError),
        (USED, {"entitlements": None}, UnknownMeterError),
        (USED.model_copy(update={"meter": "disk"}), {}, UnknownMeterError),
        (USED.model_copy(update={"occurred_at": NOW - timedelta(days=35, seconds=1)}), {}, UsageOutsideWindowError),
        (USED.model_copy(update={"occurred_at": NOW + timedelta(minutes=5, seconds=1)}), {}, UsageOutsideWindowError),
    ],
    ids=["publisher", "tenant", "nothing bought", "meter", "too old", "too new"],
)
def test_usage_that_cannot_be_billed_is_refused(used, changes, error):
    with pytest.raises(error):
        record(used, **changes)
