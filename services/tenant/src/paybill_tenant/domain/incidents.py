"""Open incidents of a tenant, of all services: a person who owns one knows about the tenant."""

from typing import assert_never

from paybill_contracts.incidents import CHARGE_WITHOUT_TENANT, IncidentAssigned, IncidentClosed, IncidentOpened
from paybill_contracts.tenant import IncidentsNoted, OpenIncident

from paybill_tenant.domain.tenants import Tenant, TenantEvent


def on_incident(tenant: Tenant | None, fact: IncidentOpened | IncidentAssigned | IncidentClosed) -> list[TenantEvent]:
    """Records which incidents of the tenant are open, and whether they have an owner."""
    if tenant is None:
        return []
    others = tuple(each for each in tenant.incidents if each.incident_id != fact.incident_id)
    match fact:
        case IncidentOpened():
            opened = OpenIncident(
                incident_id=fact.incident_id, is_owned=fact.owner is not None, kind=fact.kind, subject=fact.subject
            )
            after = (*others, opened)
        case IncidentAssigned():
            known = (each for each in tenant.incidents if each.incident_id == fact.incident_id)
            after = (*others, *(each.model_copy(update={"is_owned": True}) for each in known))
        case IncidentClosed():
            after = others
        case _:
            assert_never(fact)
    return [] if set(after) == set(tenant.incidents) else [IncidentsNoted(tenant_id=tenant.id, incidents=after)]


def is_known_to_a_person(tenant: Tenant) -> bool:
    """Returns True while an incident of the tenant is open that has an owner."""
    return any(each.is_owned for each in tenant.incidents)


def unowned_leftovers(tenant: Tenant) -> tuple[str, ...]:
    """Returns the objects at the provider that can still charge, without those whose open incident has an owner."""
    owned = {
        each.subject.rpartition("/")[2]
        for each in tenant.incidents
        if each.is_owned and each.kind == CHARGE_WITHOUT_TENANT and each.subject is not None
    }
    return tuple(each for each in tenant.remaining if each not in owned)
