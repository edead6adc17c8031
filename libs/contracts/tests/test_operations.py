"""Each service has its own classes of the operational events."""

import pytest
from paybill_contracts.billing import BillingMessageSkipped
from paybill_contracts.event import UnknownEventError
from paybill_contracts.operations import MessageSkipped, service_event
from paybill_contracts.tenant import TenantMessageSkipped


def test_each_service_has_its_own_class() -> None:
    assert service_event("tenant", MessageSkipped) is TenantMessageSkipped
    assert service_event("billing", MessageSkipped) is BillingMessageSkipped


def test_a_service_without_a_class_is_named() -> None:
    with pytest.raises(UnknownEventError, match="unknown declares no MessageSkipped"):
        service_event("unknown", MessageSkipped)
