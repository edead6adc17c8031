"""Open incidents of a tenant, of all services: a person who owns one knows about the tenant."""

from typing import assert_never

from paybill_contracts.incidents import IncidentAssigned, IncidentClosed, IncidentOpened
from paybill_contracts.tenant import IncidentsNoted, OpenIncident

from paybill_tenant.domain.tenants import Tenant, TenantEvent


def on_incident(tenant: Tenant | None, fact: IncidentOpened | IncidentAssigned | IncidentClosed) -> list[TenantEvent]:
    """Records which incidents of the tenant are open, and whether they have an owner."""
    if tenant is None:
        return []
    others = tuple(each for each in tenant.incidents if each.incident_id != fact.incident_id)
    is_open = len(others) < len(tenant.incidents)
    match fact:
        case IncidentOpened():
            after = (*others, OpenIncident(incident_id=fact.incident_id, is_owned=fact.owner is not None))
        case IncidentAssigned():
            owned = OpenIncident(incident_id=fact.incident_id, is_owned=True)
            after = (*others, owned) if is_open else others
        case IncidentClosed():
            after = others
        case _:
            assert_never(fact)
    return [] if set(after) == set(tenant.incidents) else [IncidentsNoted(tenant_id=tenant.id, incidents=after)]


def is_known_to_a_person(tenant: Tenant) -> bool:
    """Returns True while an incident of the tenant is open that has an owner."""
    return any(each.is_owned for each in tenant.incidents)
