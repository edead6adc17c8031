"""An incident is open once for each kind and subject, and opens again after its end."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest
from paybill_contracts.event import Event
from paybill_contracts.incidents import (
    Evidence,
    Finding,
    Incident,
    IncidentNotFoundError,
    IncidentStatus,
    TenantIncidentChanged,
    TenantIncidentOpened,
    assign_incident,
    close_incident,
    evolve,
    incident_id,
    open_incident,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)
TENANT = "ten_" + "a" * 32
FINDING = Finding(
    kind="paid_without_tenant",
    subject="subscription/sub_1",
    summary="sub_1 is paid, and its tenant is retained",
    evidence=(Evidence(name="status", value="retained"),),
    tenant_id=TENANT,
    command="paybill tenant show acme",
)


def folded(events: list[Event], incident: Incident | None = None) -> Incident:
    state = reduce(evolve, events, incident)
    assert state is not None
    return state


OPENED = open_incident("tenant", None, FINDING, NOW)
OPEN = folded(OPENED)


def test_a_finding_opens_the_incident_of_its_service() -> None:
    [event] = OPENED

    assert isinstance(event, TenantIncidentOpened)
    assert (event.tenant, event.aggregate_id) == (TENANT, f"incident/{OPEN.id}")
    assert (OPEN.status, OPEN.since, OPEN.evidence) == (IncidentStatus.OPEN, NOW, FINDING.evidence)


def test_an_open_incident_is_not_opened_twice() -> None:
    assert open_incident("tenant", OPEN, FINDING, NOW + timedelta(hours=1)) == []


def test_an_open_incident_gets_the_text_of_another_finding_and_keeps_its_begin_and_owner() -> None:
    other = replace(
        FINDING,
        summary="sub_1 is paid, and its tenant is purged",
        evidence=(Evidence(name="status", value="purged"),),
        command="paybill tenant show acme --json",
    )
    owned = folded(assign_incident("tenant", OPEN, "billing-team", "operator:op1"), OPEN)
    events = open_incident("tenant", owned, other, NOW + timedelta(hours=1))
    changed = folded(events, owned)

    assert [type(each) for each in events] == [TenantIncidentChanged]
    assert changed == replace(owned, summary=other.summary, evidence=other.evidence, command=other.command)
    assert (changed.since, changed.owner) == (NOW, "billing-team")
    assert open_incident("tenant", changed, other, NOW + timedelta(hours=2)) == []


def test_the_id_names_service_kind_and_subject() -> None:
    ids = {
        incident_id("tenant", "one", "tenant/1"),
        incident_id("billing", "one", "tenant/1"),
        incident_id("tenant", "two", "tenant/1"),
        incident_id("tenant", "one", "tenant/2"),
    }

    assert len(ids) == 4
    assert OPEN.id == incident_id("tenant", FINDING.kind, FINDING.subject)


def test_a_closed_incident_opens_again_with_a_new_begin() -> None:
    closed = folded(close_incident("tenant", OPEN, "refunded", "operator:op1", NOW), OPEN)
    again = folded(open_incident("tenant", closed, FINDING, NOW + timedelta(days=1)), closed)

    assert (closed.status, closed.reason, closed.closed_by) == (IncidentStatus.CLOSED, "refunded", "operator:op1")
    assert close_incident("tenant", closed, "refunded", "operator:op1", NOW) == []
    assert (again.status, again.since, again.reason) == (IncidentStatus.OPEN, NOW + timedelta(days=1), None)


def test_an_incident_has_one_owner() -> None:
    owned = folded(assign_incident("tenant", OPEN, "billing-team", "operator:op1"), OPEN)

    assert owned.owner == "billing-team"
    assert assign_incident("tenant", owned, "billing-team", "operator:op1") == []


def test_an_incident_that_was_never_opened_cannot_be_assigned_and_needs_no_close() -> None:
    assert close_incident("tenant", None, "refunded", "operator:op1", NOW) == []
    with pytest.raises(IncidentNotFoundError):
        assign_incident("tenant", None, "billing-team", "operator:op1")
