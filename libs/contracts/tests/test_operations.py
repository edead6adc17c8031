"""What every context says about its own running is found by its context."""

import pytest
from paybill_contracts.billing import BillingMessageSkipped
from paybill_contracts.event import UnknownEventError
from paybill_contracts.operations import MessageSkipped, service_event
from paybill_contracts.tenant import TenantMessageSkipped


def test_each_context_has_its_own_class() -> None:
    assert service_event("tenant", MessageSkipped) is TenantMessageSkipped
    assert service_event("billing", MessageSkipped) is BillingMessageSkipped


def test_a_context_that_declares_none_is_named() -> None:
    with pytest.raises(UnknownEventError, match="nobody declares no MessageSkipped"):
        service_event("nobody", MessageSkipped)
