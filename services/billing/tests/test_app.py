"""The app registers the effects, timers and states of every context."""

import pytest
from paybill_billing.app import JOBS, TIMERS
from paybill_billing.tables import METADATA, OTHER_TABLES, STATES
from paybill_contracts.accounts import AccountClosed, LeftoverFound
from paybill_contracts.billing import AccountRegistered, CancellationRequested
from paybill_contracts.changes import ChangeConfirmed, ChangeRequested
from paybill_contracts.licences import (
    LicenceKeyPublished,
    LicenceKeyRequested,
    LicenceRevocationsChanged,
    LicenceSigningRequested,
)
from paybill_contracts.metering import UsageCountRequested, UsagePartClosed, UsageReportRequested, UsageWindowClosed
from paybill_runtime.jobs.effects import JobRegistry

EFFECTS = {
    AccountRegistered: "open_account",
    CancellationRequested: "cancel",
    AccountClosed: "find_leftovers",
    LeftoverFound: "cancel_leftover",
    ChangeRequested: "quote",
    ChangeConfirmed: "make",
    UsagePartClosed: "report_usage",
    UsageWindowClosed: "report_usage",
    UsageReportRequested: "report_usage",
    UsageCountRequested: "count_at_provider",
    LicenceSigningRequested: "sign_licence",
    LicenceKeyRequested: "make_key",
    LicenceKeyPublished: "destroy_replaced",
    LicenceRevocationsChanged: "sign_revocations",
}


def test_every_event_that_intends_an_effect_has_it_registered():
    assert {type_: effect.name for type_, effect in JOBS.effects.items()} == {
        event.TYPE: name for event, name in EFFECTS.items()
    }


def test_an_event_cannot_intend_effects_of_two_contexts():
    with pytest.raises(TypeError, match="has an effect already"):
        JobRegistry(JOBS, JOBS)


def test_every_table_belongs_to_a_context():
    tables = {stored.table.name for stored in STATES} | {table.name for table in OTHER_TABLES}

    assert tables == set(METADATA.tables)
    assert len({stored.kind for stored in STATES}) == len(STATES)


def test_every_timer_is_of_a_state_of_the_service():
    assert {timer.stored for timer in TIMERS} <= set(STATES)
