"""Group commit: decisions share a transaction, do not affect each other, and take effect exactly once."""

import asyncio
from dataclasses import replace

import pytest
from paybill_contracts.envelope import Origin
from paybill_contracts.tenant import OfferingNoted
from paybill_runtime.clock import new_id
from paybill_runtime.decisions.aggregates import Stored
from paybill_runtime.decisions.group_commit import Decision, GroupCommit
from paybill_runtime.decisions.store import Store
from paybill_runtime.errors import FactTooLargeError, UnknownOutcomeError, reason
from paybill_tenant.domain.signup_options import SignupOptions
from paybill_tenant.tables import SIGNUP_OPTIONS
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

HASH = "e" * 64


def _noting(name: str, extra=None, keys: tuple[str, ...] = ("eu-1",)) -> Decision[str]:
    """Returns a decision that records an offering called `name`."""
    fact = OfferingNoted(offering=name, keys=keys, source_hash=HASH)

    def decide(unit, _at) -> str:
        unit.record(SIGNUP_OPTIONS, name, [fact])
        return name

    cause = new_id()
    origin = Origin(cause, cause, "service:tenant", "")
    return Decision(origin, decide, writes=[SIGNUP_OPTIONS.key(name)], in_transaction=extra)


async def _decided(served, *decisions: Decision[str]):
    return await asyncio.gather(*map(served.running.group_commit.decide, decisions), return_exceptions=True)


async def _names(served, databases) -> list[str]:
    rows = await databases.execute(
        str(served.running.settings.database_url),
        "tenant",
        "SELECT aggregate FROM chassis.outbox WHERE aggregate LIKE 'offering/x-%' ORDER BY aggregate",
    )
    return [row["aggregate"].removeprefix("offering/") for row in rows]


def _holding(gate: asyncio.Event, reached: asyncio.Event):
    async def wait(_connection) -> None:
        reached.set()
        await gate.wait()

    return wait


def _failing(error: Exception):
    async def fail(_connection) -> None:
        raise error

    return fail


def _running(statement: str):
    async def run(connection) -> None:
        await connection.execute(text(statement))

    return run


async def test_a_cancelled_caller_does_not_affect_the_other_decisions_of_its_group(served, databases) -> None:
    gate, reached = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(served.running.group_commit.decide(_noting("x-first", _holding(gate, reached))))
    await reached.wait()
    waiting = asyncio.create_task(served.running.group_commit.decide(_noting("x-waiting")))
    given_up = asyncio.create_task(served.running.group_commit.decide(_noting("x-given-up")))
    await asyncio.sleep(0)

    first.cancel()
    given_up.cancel()
    gate.set()

    assert await waiting == "x-waiting"
    assert await _names(served, databases) == ["x-first", "x-waiting"]


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("odd")])
async def test_a_failing_extra_statement_fails_its_own_decision_alone(served, databases, error) -> None:
    answers = await _decided(served, _noting("x-a"), _noting("x-b", _failing(error)), _noting("x-c"))

    assert answers == ["x-a", error, "x-c"]
    assert await _names(served, databases) == ["x-a", "x-c"]


async def test_a_violated_constraint_fails_one_decision_and_the_others_commit_once(served, databases) -> None:
    twice = _running("INSERT INTO chassis.member SELECT * FROM chassis.member LIMIT 1")

    answers = await _decided(served, _noting("x-a"), _noting("x-b", twice), _noting("x-c"))

    assert (answers[0], answers[2]) == ("x-a", "x-c")
    assert isinstance(answers[1], IntegrityError)
    assert await _names(served, databases) == ["x-a", "x-c"]


async def test_an_impossible_key_fails_no_decision(served, databases) -> None:
    odd = replace(
        _noting("x-odd"), decide=lambda unit, _: unit.get(SIGNUP_OPTIONS, "x\0"), reads=[SIGNUP_OPTIONS.key("x\0")]
    )

    assert await _decided(served, _noting("x-a"), odd) == ["x-a", None]
    assert await _names(served, databases) == ["x-a"]


async def test_a_fact_that_is_too_large_fails_its_own_decision_alone(served, databases) -> None:
    large = _noting("x-large", keys=tuple(f"{number:060d}".replace("0", "a", 1) for number in range(9_000)))

    answers = await _decided(served, _noting("x-a"), large)

    assert answers[0] == "x-a"
    assert isinstance(answers[1], FactTooLargeError)
    assert await _names(served, databases) == ["x-a"]


async def test_two_replicas_that_create_one_aggregate_concurrently_agree_on_its_history(served, databases) -> None:
    gate, reached = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(served.running.group_commit.decide(_noting("x-one", _holding(gate, reached))))
    await reached.wait()
    running = served.running
    other = GroupCommit("tenant", running.database, running.store, lambda **_: None, running.restore_guard)
    second = asyncio.create_task(other.commit([_noting("x-one")]))
    await asyncio.sleep(0.1)

    gate.set()
    await asyncio.gather(first, second)

    rows = await databases.execute(
        str(served.running.settings.database_url), "tenant", "SELECT revision FROM offerings WHERE id = 'x-one'"
    )
    assert [row["revision"] for row in rows] == [2]


@pytest.fixture
def keeping(served) -> list[GroupCommit]:
    """Group commits of two processes that keep the states of offerings."""
    running, of = served.running, SIGNUP_OPTIONS
    kept: Stored[SignupOptions] = Stored(of.kind, of.row, SignupOptions, of.evolve, kept=True)
    return [
        GroupCommit(
            "tenant",
            running.database,
            Store([kept], running.service.jobs.required_jobs, lambda _: True, running.signing.sign),
            lambda **_: None,
            running.restore_guard,
        )
        for _ in range(2)
    ]


def _revision_noted(written: str, read: str, revisions: list[int]) -> Decision[str]:
    """Returns a decision that notes the revision of one offering each time it runs, and records another one."""
    noting = _noting(written)

    def decide(unit, at) -> str:
        revisions.append(unit.revision(SIGNUP_OPTIONS, read))
        return noting.decide(unit, at)

    return replace(noting, decide=decide, reads=[SIGNUP_OPTIONS.key(read)])


async def test_a_kept_state_that_another_process_changed_is_loaded_and_decided_again(
    served, keeping, databases
) -> None:
    one, other = keeping
    revisions: list[int] = []

    await one.commit([_revision_noted("x-one", "x-one", revisions)])
    await one.commit([_revision_noted("x-one", "x-one", revisions)])
    await other.commit([_noting("x-one")])
    await one.commit([_revision_noted("x-one", "x-one", revisions)])

    assert revisions == [0, 1, 2, 3]  # the third is of the kept state, and the fourth of the repeated decision
    assert await _names(served, databases) == ["x-one"] * 4


async def test_a_kept_state_that_was_only_read_refuses_the_commit_after_a_change(served, keeping, databases) -> None:
    one, other = keeping
    revisions: list[int] = []

    await one.commit([_noting("x-one")])
    await other.commit([_noting("x-one")])
    await one.commit([_revision_noted("x-two", "x-one", revisions)])

    assert revisions == [1, 2]
    assert await _names(served, databases) == ["x-one", "x-one", "x-two"]


async def test_a_decision_without_facts_is_never_made_on_a_kept_state(keeping) -> None:
    one, other = keeping
    revision = replace(_noting("x-one"), decide=lambda unit, _: unit.revision(SIGNUP_OPTIONS, "x-one"))

    await one.commit([_noting("x-one")])
    await other.commit([_noting("x-one")])
    await one.commit([revision])

    assert revision.outcome == 2


@pytest.fixture
async def dying_commits(served, databases):
    """Terminates the connection of every commit, as if PostgreSQL had been killed at that moment."""
    url = str(served.running.settings.database_url)
    await databases.execute(
        url,
        "tenant",
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); RETURN NULL; END $$",
    )
    await databases.execute(
        url,
        "tenant",
        "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON chassis.outbox DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION die()",
    )

    async def heal() -> None:
        await databases.execute(url, "tenant", "DROP TRIGGER die ON chassis.outbox")

    return heal


async def test_a_lost_commit_is_reported_as_an_unknown_outcome(served, databases, dying_commits) -> None:
    answers = await _decided(served, _noting("x-a"), _noting("x-b"))

    assert [type(answer) for answer in answers] == [UnknownOutcomeError] * 2
    await dying_commits()
    assert await _decided(served, _noting("x-a")) == ["x-a"]
    assert await _names(served, databases) == ["x-a"]


async def test_a_request_repeated_after_an_unknown_outcome_takes_effect_once(
    served, sign_up, dying_commits, log
) -> None:
    lost = await sign_up(served, "once", **{"Idempotency-Key": "k1"})
    await dying_commits()
    again = await sign_up(served, "once", **{"Idempotency-Key": "k1"})

    assert (lost.status_code, lost.json()["code"]) == (503, "outcome_unknown")
    assert lost.headers["Retry-After"]
    assert again.status_code == 202
    assert len(await log.facts("tenant.tenant_requested")) == 1


def test_a_reason_is_one_line_that_a_table_can_hold() -> None:
    assert reason(ValueError("a\0b\nsecond line")) == "ValueError: a b"
    assert reason(ValueError("\ud800")) == "ValueError: ?"
