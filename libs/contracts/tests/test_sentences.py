"""Every event can be told to an operator in one sentence."""

from datetime import UTC, datetime

import orjson
import pytest
from paybill_contracts.billing import SubscriptionGraceStarted
from paybill_contracts.schemas import published_events, sample_of
from paybill_contracts.sentences import sentence
from paybill_contracts.tenant import Hold, HoldOrigin, OffboardingStarted, SuspensionMode, TenantSuspended

TENANT = "ten_" + "0" * 32


@pytest.mark.parametrize("event", published_events(), ids=lambda event: event.TYPE)
def test_every_event_is_one_readable_line(event):
    text = sentence(event.model_validate_json(orjson.dumps(sample_of(event))))

    assert 5 < len(text) < 400
    assert not any(part in text for part in ("{", "}", "\n", "`", "sealed", "object at"))


@pytest.mark.parametrize("event", published_events(), ids=lambda event: event.TYPE)
def test_the_name_of_a_field_does_not_stand_for_its_value(event):
    described = (event.__doc__ or "").partition("\n")[0].partition(". ")[0]

    text = sentence(event.model_validate_json(orjson.dumps(sample_of(event))))

    assert "`" not in described or text.lower() != described.rstrip(".").replace("`", "").lower()


def test_times_and_holds_are_readable():
    until = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
    holds = (
        Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason="unpaid"),
        Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.READ_ONLY, reason="asked"),
    )

    leaves = OffboardingStarted(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="asked", retain_until=until)
    suspended = TenantSuspended(tenant_id=TENANT, mode=SuspensionMode.BLOCKED, holds=holds)

    assert sentence(leaves) == "offboarding (asked); data kept until 2026-03-01 12:00 UTC"
    assert sentence(suspended) == "suspended (blocked): billing: unpaid; operator: asked"


def test_a_missing_value_is_a_dash():
    sample = SubscriptionGraceStarted.model_validate_json(orjson.dumps(sample_of(SubscriptionGraceStarted)))
    unknown = sample.model_copy(update={"subscription": sample.subscription.model_copy(update={"grace_until": None})})

    assert sentence(unknown) == "payment outstanding; access stays until -"
