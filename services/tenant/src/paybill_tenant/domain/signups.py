"""Sign-up of a tenant."""

from datetime import datetime

from paybill_contracts.personal import Personal
from paybill_contracts.purchases import PurchaseTerms
from paybill_contracts.tenant import Source, TenantRequested

from paybill_tenant.domain.signup_options import SignupOptions, check_request
from paybill_tenant.domain.tenants import TenantEvent


def request(
    plans: SignupOptions | None,
    regions: SignupOptions | None,
    *,
    tenant_id: str,
    slug: str,
    name: str,
    plan: str,
    region: str,
    contact_email: Personal[str],
    source: Source,
    payments: SignupOptions | None = None,
    payment: str | None = None,
    customer: str | None = None,
    terms: PurchaseTerms | None = None,
    valid_until: datetime | None = None,
    contact_digest: str | None = None,
    contact_until: datetime | None = None,
    requested_at: datetime | None = None,
) -> list[TenantEvent]:
    """Requests a new tenant. A unique column, not this rule, ensures that the slug is free."""
    check_request(
        plans,
        regions,
        slug=slug,
        plan=plan,
        region=region,
        payments=payments,
        payment=payment,
        customer=customer,
        terms=terms,
    )
    return [
        TenantRequested(
            tenant_id=tenant_id,
            slug=slug,
            name=name,
            plan=plan,
            region=region,
            contact_email=contact_email,
            source=source,
            payment=payment,
            customer=customer,
            valid_until=valid_until,
            contact_digest=contact_digest,
            contact_until=contact_until,
            terms=terms,
            requested_at=requested_at,
        )
    ]
