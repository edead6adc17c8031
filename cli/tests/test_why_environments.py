"""Causes that an environment has: waits, plans that wait for a person, purges and quarantines."""

from random import Random

import pytest
from paybill_contracts.why import Cause, HoldState, OpenJob, UnsettledState
from paybill_contracts.why_causes import explain
from why_faults import NOW, Situation


def causes(situation: Situation) -> tuple[Cause, ...]:
    parts = situation.all_parts()
    return explain(situation.tenant.slug, parts, situation.unanswered, situation.machine()).causes


def active(status: str = "active") -> Situation:
    situation = Situation(Random(1))
    situation.paid()
    situation.tenant = situation.tenant.model_copy(update={"status": status, "slug": "acme"})
    situation.environment = situation.environment.model_copy(
        update={"status": "ready", "access": "open", "target_access": "open"}
    )
    return situation


def job(**fields: object) -> OpenJob:
    values = {"id": "job-1", "kind": "build", "key": "ten_1", "state": "pending", "attempts": 0, "due": NOW, **fields}
    return OpenJob(error="schema.main: the server refuses: disk is gone (53100)", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "progress"),
    [({"waits": 4}, "waits and is retried, 4 times so far"), ({"attempts": 2}, "failed 2 times and is retried")],
)
def test_a_job_that_is_retried_names_the_step_the_message_the_tries_and_the_next_one(
    fields: dict[str, int], progress: str
) -> None:
    situation = active("provisioning")
    situation.environment = situation.environment.model_copy(update={"status": "building", "access": "closed"})
    situation.change("provisioner", jobs=(job(**fields),))

    [cause] = causes(situation)

    assert cause.summary == f"the job build {progress}: schema.main: the server refuses: disk is gone (53100)"
    assert cause.because == (f"it continues by itself; the next attempt is at {NOW:%Y-%m-%d %H:%M:%S} UTC",)
    assert cause.command == "paybill jobs retry job-1"


def test_a_plan_that_waits_for_a_person_is_the_cause_with_its_command() -> None:
    situation = active()
    held = UnsettledState(
        reason="approval_expired", text="the approval expired", command="paybill environment plan acme", since=NOW
    )
    situation.environment = situation.environment.model_copy(
        update={"unsettled": held, "pending": "starter (pooled) is built and team (bridge) is entitled"}
    )

    [cause] = causes(situation)

    assert (cause.kind, cause.summary, cause.command) == (held.reason, held.text, held.command)
    assert cause.because[0].startswith("since ")
    assert cause.because[1] == "starter (pooled) is built and team (bridge) is entitled"
    assert "return to a plan that has the built size" in cause.because[2]


@pytest.mark.parametrize("has_reason", [True, False])
def test_a_requested_placement_is_given_up_by_its_own_command_and_never_by_a_change_of_plan(has_reason: bool) -> None:
    situation = active()
    situation.account = situation.account.model_copy(update={"plan_of_built_size": "starter"})
    held = UnsettledState(
        reason="approval_requested", text="it waits", command="paybill approval show apr_1", since=NOW
    )
    situation.environment = situation.environment.model_copy(
        update={
            "unsettled": held if has_reason else None,
            "pending": "starter (pooled) is built and starter (silo) is requested",
            "placement": "pooled",
            "requested_by_person": True,
        }
    )

    [cause] = causes(situation)

    assert cause.because[-1] == "to give the move up: paybill environment move acme --to pooled"
    assert not any("subscription" in each or "plan" in each for each in (*cause.because, cause.summary))


def test_a_purge_that_failed_is_retried() -> None:
    situation = active("purging")
    situation.environment = situation.environment.model_copy(
        update={"status": "purging", "failed_resource": "role.main", "failure": "it exists after its deletion"}
    )

    [cause] = causes(situation)

    assert (cause.kind, cause.command) == ("purge", "paybill environment retry acme")
    assert cause.summary == "role.main could not be deleted: it exists after its deletion"


def test_a_quarantine_is_ended_by_its_own_command_only() -> None:
    situation = active("quarantined")
    hold = HoldState(origin="quarantine", mode="blocked", reason="leaked password")
    situation.tenant = situation.tenant.model_copy(update={"holds": (hold,)})

    [cause] = causes(situation)

    assert (cause.kind, cause.summary) == ("quarantine", "it is quarantined: leaked password")
    assert cause.command == "paybill tenant show acme"
    assert cause.because[0].endswith("paybill tenant end-quarantine acme")
