"""Tests of `paybill usage`, and of the proof, which finds every kind of difference."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from paybill_cli.commands.usage_proof import MEANINGS, Ledger, next_step
from paybill_cli.exit_codes import ExitCode
from paybill_client import publish
from paybill_contracts.usage import Usage
from polling import until

TENANT = "ten_" + "1" * 32
METER = f"{TENANT}:calls"
START = "2026-03-01T00:00:00Z"
WINDOW = f"{METER}:2026-03-01T00"


def opened(aggregation="sum"):
    return fact("usage_window_opened", METER, meter_id=METER, window_start=START, aggregation=aggregation)


def used(quantity, total, value, **more):
    return fact("usage_recorded", METER, meter_id=METER, quantity=quantity, total=total, value=value, **more)


def closed(value, provider_meter="m"):
    return fact("usage_window_closed", WINDOW, value=value, provider_meter=provider_meter)


def reported(quantity):
    return fact("usage_reported", WINDOW, quantity=quantity)


def fact(kind, aggregate, /, **payload):
    about = {"tenant_id": TENANT, "meter": "calls", "window_start": START}
    return {"type": f"billing.{kind}", "tenant": TENANT, "aggregate": aggregate, "payload": about | payload}


def ledger(*facts, tenant=None, since=None, until=None):
    found = Ledger(tenant, since, until)
    revisions = {}
    for each in facts:
        revisions[each["aggregate"]] = revisions.get(each["aggregate"], 0) + 1
        found.add({"revision": revisions[each["aggregate"]], **each})
    return found


def part(number, quantity):
    return fact("usage_part_closed", WINDOW, number=number, quantity=quantity)


def part_reported(number, quantity):
    return fact("usage_reported", WINDOW, part=number, quantity=quantity)


RIGHT = [opened(), used(5, 5, 5), used(7, 12, 12), closed(12), reported(12)]


def kinds(found):
    return [difference["kind"] for difference in found.differences()]


def test_correct_usage_has_no_difference() -> None:
    found = ledger(*RIGHT)

    assert kinds(found) == []
    assert (found.sums()["measurements"], found.sums()["reported"]) == (2, 1)


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ([opened(), used(5, 6, 5)], "total"),
        ([opened(), used(5, 5, 4)], "value"),
        ([opened("count"), used(5, 5, 5)], "value"),
        ([opened(), used(5, 5, 5), closed(6, None)], "closed"),
        ([opened(), used(5, 5, 5), part(1, 5)], "unreported"),
        ([opened(), used(5, 5, 5), part(1, 5), part_reported(1, 4)], "reported"),
        ([opened(), used(5, 5, 5), part(1, 6), part_reported(1, 6)], "overbilled"),
        ([opened(), used(5, 5, 5), part(1, 5), fact("usage_unbilled", WINDOW, part=1, quantity=5)], "unbilled"),
        ([opened(), used(5, 5, 5), closed(5, None), used(1, 6, 6)], "late"),
        (RIGHT[:-1], "unreported"),
        ([*RIGHT[:-1], fact("usage_report_failed", WINDOW, reason="no meter")], "unreported"),
        ([*RIGHT[:-1], reported(11)], "reported"),
    ],
    ids=[
        "total",
        "value",
        "aggregation",
        "closed",
        "part not reported",
        "part reported wrong",
        "more billed than used",
        "unbilled",
        "late",
        "not reported",
        "refused",
        "reported wrong",
    ],
)
def test_each_kind_of_difference_is_found(facts, kind) -> None:
    assert kind in kinds(ledger(*facts))


@pytest.mark.parametrize(
    ("facts", "step"),
    [
        ([opened(), used(5, 5, 5), part(1, 5), fact("usage_unbilled", WINDOW, part=1, quantity=5)], "unbilled"),
        ([*RIGHT[:-1], fact("usage_report_failed", WINDOW, reason="no meter")], "failed"),
        (RIGHT[:-1], "due"),
        ([*RIGHT[:-1], reported(11)], "reported"),
    ],
    ids=["unbilled", "refused", "not reported yet", "reported wrong"],
)
def test_the_next_step_lists_the_windows_of_the_difference(facts, step) -> None:
    found = list(ledger(*facts).differences())

    assert next_step(found, "acme") == f"paybill usage windows --status {step} --tenant acme"
    assert next_step(found, None) == f"paybill usage windows --status {step}"


def test_every_kind_of_difference_has_a_next_step() -> None:
    differences = [{"kind": kind, "found": "not yet"} for kind in MEANINGS]

    steps = [next_step([each], None) for each in differences]

    assert next_step(differences, "acme") == "paybill replay --verify"
    assert {step.split()[1] for step in steps} == {"replay", "usage", "doctor"}


def entitled(included, plan="pro"):
    features = [{"kind": "metered", "key": "calls", "meter": "calls", "included": included, "quota": None}]
    return fact("entitlements_set", TENANT, plan={"plan": plan, "version": 1}, features=features)


@pytest.mark.parametrize(
    ("plan", "found"),
    [("pro", [("overbilled", 47, 1047)]), ("business", [])],
    ids=["granted on the same plan", "another plan after the invoice"],
)
def test_a_grant_after_usage_was_billed_makes_it_overbilled(plan, found) -> None:
    billed = [opened(), entitled(0), used(1047, 1047, 1047), part(1, 1047), part_reported(1, 1047)]

    before, after = ledger(*billed), ledger(*billed, entitled(1000, plan))

    assert kinds(before) == []
    differences = [(each["kind"], each["expected"], each["found"]) for each in after.differences()]
    assert differences == found


def test_unbilled_usage_is_settled_when_its_incident_is_closed() -> None:
    unbilled = [opened(), used(42, 42, 42), part(1, 42), fact("usage_unbilled", WINDOW, part=1, quantity=42)]
    closed_ = fact("incident_closed", "incident/1", kind="unbilled_usage", reason="invoiced")
    other = fact("incident_closed", "incident/2", kind="charge_without_tenant", reason="cancelled")
    more = [used(5, 47, 47), part(2, 5), fact("usage_unbilled", WINDOW, part=2, quantity=5)]

    assert kinds(ledger(*unbilled, other)) == ["unbilled"]
    assert kinds(ledger(*unbilled, closed_)) == []
    assert ledger(*unbilled, closed_).sums()["settled_by_hand"] == 42
    assert kinds(ledger(*unbilled, closed_, *more)) == ["unbilled"]


def test_usage_that_is_not_billed_yet_is_counted() -> None:
    found = [ledger(opened(), used(42, 42, 42), *more) for more in ([], [part(1, 30)])]

    assert [each.sums()["not_billed_yet"] for each in (*found, ledger(*RIGHT))] == [42, 12, 0]


@pytest.mark.parametrize(
    ("counted", "count_failure", "found"),
    [(12, None, []), (11, None, ["provider"]), (24, None, ["provider"]), (None, "away", ["unanswered"])],
    ids=["equal", "less", "twice", "away"],
)
def test_the_provider_s_count_is_compared_with_the_reported_value(counted, count_failure, found) -> None:
    made = ledger(*RIGHT)
    (window,) = made.reported()
    window.counted, window.count_failure = counted, count_failure

    assert kinds(made) == found


def test_reported_usage_is_compared_with_invoices() -> None:
    found = ledger(opened(), used(5, 5, 5), part(1, 5), part_reported(1, 5))
    period = {"meter": "m", "start": START, "invoice": "in_1", "reported": 5, "invoiced": 5, "differs": False}
    lost = period | {"invoice": None, "invoiced": 0, "differs": True}

    assert found.tenants_in_parts() == [TENANT]
    for periods, expected in (
        ([period], []),
        ([period | {"invoiced": 4, "differs": True}], ["invoiced"]),
        ([lost], ["uninvoiced"]),
        ("the provider is away", ["unanswered"]),
    ):
        found.invoiced = {TENANT: periods}
        assert [difference["kind"] for difference in found.invoice_differences()] == expected


@pytest.mark.parametrize(
    ("aggregation", "value"), [("count", 3), ("sum", 9), ("max", 5), ("unique", 2)], ids=["count", "sum", "max", "of"]
)
def test_every_aggregation_is_recalculated(aggregation, value) -> None:
    quantities = [(3, "a"), (5, "b"), (1, "a")]
    facts, total = [opened(aggregation)], 0
    for quantity, object_ in quantities:
        total += quantity
        facts.append(used(quantity, total, value, member=object_))

    assert kinds(ledger(*facts)) == []


def test_duplicates_other_tenants_and_other_periods_are_ignored() -> None:
    copy = [{**event, "revision": 1} for event in (opened(), opened())]
    march = datetime(2026, 3, 1, tzinfo=UTC)

    assert kinds(ledger(*RIGHT, {**RIGHT[2], "revision": 3})) == []
    assert len(ledger(*copy).windows) == 1
    assert ledger(*RIGHT, tenant="ten_" + "2" * 32).windows == {}
    assert ledger(*RIGHT, since=march + timedelta(seconds=1)).windows == {}
    assert len(ledger(*RIGHT, since=march, until=march + timedelta(seconds=1)).windows) == 1


def test_events_from_before_windows_existed_count_only_in_the_total() -> None:
    old = used(5, 5, None)
    old["payload"] = {**old["payload"], "window_start": None}

    found = ledger(old, opened(), used(2, 7, 2))

    assert (kinds(found), found.unwindowed, found.windows[WINDOW].value) == ([], 1, 2)


def test_tables_that_differ_from_the_log_are_found() -> None:
    found = ledger(*RIGHT)
    row = {"value": 12, "records": 2, "start": START}

    assert found.table_differences({}, {WINDOW: row}) == []
    for open_, closed_ in (
        ({}, {}),
        ({WINDOW: row}, {}),
        ({}, {WINDOW: row | {"value": 13}}),
        ({}, {"x": row, WINDOW: row}),
    ):
        (difference,) = found.table_differences(open_, closed_)
        assert difference["kind"] == "state"
        assert difference["meaning"] == MEANINGS["state"]


def test_usage_is_shown_consumed_and_proven_and_a_wrong_table_is_found(on_stack, real_stack, customers) -> None:
    tenant = customers.sign_up()
    slug, id_ = tenant["slug"], tenant["id"]
    customers.pay(tenant["checkout_url"])
    until(lambda: on_stack("usage", "show", slug, "--json").data)
    for _ in range(3):
        publish(
            Usage(tenant_id=id_, meter="calls", quantity=4, occurred_at=datetime.now(UTC)),
            real_stack.data_dir / "clients" / "metering.json",
        )
    consume = ("usage", "consume", slug, "calls", "--quantity")
    dry = on_stack(*consume, 5, "--dry-run")
    consumed = on_stack(*consume, 5, "--json")
    until(lambda: on_stack("usage", "show", slug, "--json").data[0]["value"] == 17)
    right = on_stack("usage", "prove", "--tenant", slug, "--json")
    own, whole = on_stack("usage", "prove", "--tenant", slug), on_stack("usage", "prove")
    edit = "UPDATE meters SET state = jsonb_set(state, '{{windows,0,value}}', '{}') WHERE id = '{}:calls'"
    asyncio.run(_as_billing(real_stack.data_dir, edit.format(16, id_)))
    wrong = on_stack("usage", "prove", "--tenant", slug)
    asyncio.run(_as_billing(real_stack.data_dir, edit.format(17, id_)))
    listed = on_stack("usage", "windows", "--tenant", slug, "--status", "open", "--json")
    limit = ("--meter", "calls", "--included", 0, "--quota", 18, "--reason", "test", "--yes")
    on_stack("entitlement", "override", slug, "calls", *limit)
    over = on_stack(*consume, 5, "--dry-run", "--json")

    assert (over.code, over.error["code"]) == (ExitCode.CONFLICT, "quota_exceeded")
    assert dry.out.splitlines()[-1].startswith("would record: used 5 calls, ")
    assert (consumed.data["allowed"], consumed.code) == (True, ExitCode.OK)
    assert (right.code, right.data["equal"], right.data["measurements"]) == (ExitCode.OK, True, 4)
    assert "all that is due is billed. 17 units in 1 open windows are not billed yet" in own.err
    assert (whole.code, "all that is due is billed. " in whole.err) == (ExitCode.OK, True)
    assert (wrong.code, "16 of 4 measurements" in wrong.out) == (ExitCode.FAILED, True)
    assert [(row["value"], row["records"]) for row in listed.data] == [(17, 4)]


async def _as_billing(data_dir, statement) -> None:
    server = json.loads((data_dir / "stack.json").read_text())["postgres"]
    connection = await asyncpg.connect(
        f"postgresql://billing@{server['host']}:{server['port']}/billing",
        password=(data_dir / "credentials" / "pg-billing").read_text().strip(),
    )
    await connection.execute(statement)
    await connection.close()


def test_a_dry_run_of_a_report_is_refused_as_the_report_would_be(on_stack) -> None:
    dry = on_stack("usage", "report", WINDOW, "--dry-run", "--json")
    done = on_stack("usage", "report", WINDOW, "--json")

    assert (dry.code, dry.error["code"]) == (done.code, done.error["code"])
    assert dry.code == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "../../healthz"],
        ["report", "../x"],
        ["windows", "--since", "yesterday"],
        ["prove", "--until", "2026-13-01"],
    ],
    ids=["tenant", "window", "since", "until"],
)
def test_invalid_arguments_are_refused_before_a_request_is_sent(on_stack, arguments) -> None:
    done = on_stack("usage", *arguments, "--json")

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, "usage")
