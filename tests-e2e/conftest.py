"""What others say in tests of single services: that an account exists."""

from collections.abc import Callable

import pytest
from paybill_contracts.billing import AccountRegistered
from paybill_contracts.personal import Personal


@pytest.fixture
def registered() -> Callable[..., AccountRegistered]:
    """`registered(tenant_id, retention_s)`: heard again after another one it is news again, so that twice shows."""

    def said(tenant_id: str, retention_s: int = 86_400) -> AccountRegistered:
        return AccountRegistered(
            tenant_id=tenant_id,
            plan="pro",
            plan_version=1,
            provider="stripe",
            retention_s=retention_s,
            name="Acme",
            contact_email=Personal[str](key=f"billing/{tenant_id}", sealed="A" * 60),
        )

    return said
