"""Open incidents of a tenant, as all services report them, count for invariant 3 while they have an owner."""

from dataclasses import replace

import pytest
from paybill_contracts.incidents import (
    BillingIncidentAssigned,
    BillingIncidentClosed,
    BillingIncidentOpened,
    ProvisionerIncidentOpened,
    TenantIncidentOpened,
)
from paybill_runtime.replay.verify import replay
from paybill_tenant.domain import incidents
from paybill_tenant.domain.tenants import Tenant, TenantEvent, evolve
from tenant_samples import ACTIVE, ID, NOW

INCIDENT = "inc_" + "1" * 32


def opened(kind=BillingIncidentOpened, tenant_id=ID, owner=None):
    return kind(
        incident_id=INCIDENT,
        kind="paid_without_tenant",
        subject="subscription/sub_1",
        tenant_id=tenant_id,
        summary="paid",
        evidence=(),
        command=None,
        owner=owner,
        since=NOW,
    )


def assigned(tenant_id=ID):
    return BillingIncidentAssigned(incident_id=INCIDENT, tenant_id=tenant_id, owner="on-call", by="operator:ada")


def closed(tenant_id=ID):
    return BillingIncidentClosed(
        incident_id=INCIDENT,
        kind="paid_without_tenant",
        subject="subscription/sub_1",
        tenant_id=tenant_id,
        reason="it runs",
        by="operator:ada",
        closed_at=NOW,
    )


def after(tenant: Tenant, events: list[TenantEvent]) -> Tenant:
    for event in events:
        tenant = evolve(tenant, event)
    return tenant


@pytest.mark.parametrize("kind", [BillingIncidentOpened, ProvisionerIncidentOpened, TenantIncidentOpened])
def test_an_incident_is_known_to_a_person_from_its_assignment_to_its_end(kind) -> None:
    found = after(ACTIVE, incidents.on_incident(ACTIVE, opened(kind)))
    owned = after(found, incidents.on_incident(found, assigned()))
    over = after(owned, incidents.on_incident(owned, closed()))

    assert [incidents.is_known_to_a_person(tenant) for tenant in (ACTIVE, found, owned, over)] == [
        False,
        False,
        True,
        False,
    ]
    assert [(each.kind, each.subject) for each in owned.incidents] == [(opened(kind).kind, opened(kind).subject)]
    assert over == replace(ACTIVE, incidents=())
    assert incidents.on_incident(found, opened(kind)) == incidents.on_incident(owned, assigned()) == []


def test_an_incident_may_have_an_owner_from_the_beginning() -> None:
    assert incidents.is_known_to_a_person(after(ACTIVE, incidents.on_incident(ACTIVE, opened(owner="billing"))))


def test_the_assignment_of_a_closed_incident_and_an_unknown_tenant_change_nothing() -> None:
    assert incidents.on_incident(ACTIVE, assigned()) == incidents.on_incident(ACTIVE, closed()) == []
    assert incidents.on_incident(None, opened()) == []


async def test_incidents_of_other_services_are_noted(tenant, publish, log, sign_up) -> None:
    tenant_id = (await tenant.client.post("/v1/tenants", json=sign_up)).json()["id"]

    await publish(opened(tenant_id=tenant_id), opened(tenant_id=None), assigned(tenant_id), closed(tenant_id), copies=2)
    facts = await log.facts("tenant.incidents_noted", at_least=3)
    report = await replay(tenant.running.service, tenant.running.settings, tenant.running.database)

    assert [[each.is_owned for each in fact.event.incidents] for fact in facts] == [[False], [True], []]
    assert report.equal, report.as_dict()
