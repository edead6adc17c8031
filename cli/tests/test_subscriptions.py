"""Tests of `paybill subscription` and `paybill plans move` with the real services."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import uuid

import pytest
import stripe
from paybill_cli.exit_codes import ExitCode
from polling import until

WHY = ("--reason", "requested")


@pytest.fixture
def subscriber(on_stack, customers) -> str:
    """Returns the slug of a tenant with a subscription to `starter`."""
    tenant = customers.sign_up()
    customers.pay(tenant["checkout_url"])
    slug: str = tenant["slug"]
    until(lambda: on_stack("subscription", "show", slug, "--json").code == ExitCode.OK)
    return slug


def test_a_plan_is_changed_after_its_quote_was_printed(on_stack, subscriber) -> None:
    done = on_stack("subscription", "change", subscriber, "--plan", "business", "--quantity", 2, *WHY, "--yes")

    fields = dict(line.split(": ", 1) for line in done.out.splitlines())
    assert done.code == ExitCode.OK, done.err
    assert (fields["plan"].partition("@")[0], fields["quantity"], fields["access"]) == ("business", "2", "active")
    assert "due now" in done.err
    assert "on the next regular invoice" in done.err
    assert "placement: pooled -> silo" in done.err
    assert "isolation stays pooled until moved" in done.err


def interrupted(real_stack, slug: str, after: bytes) -> int:
    """Changes the plan on a terminal, and presses Ctrl-C when `after` was printed; returns the exit code."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        change_command(slug),
        stdin=follower,
        stderr=subprocess.PIPE,
        env=os.environ | real_stack.environment,
    ) as process:
        assert process.stderr is not None
        printed = b""
        while after not in printed:
            printed += (piece := process.stderr.read1())
            assert piece, printed
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    os.close(leader)
    os.close(follower)
    return process.returncode


def change_command(slug: str) -> list[str]:
    return [sys.executable, "-m", "paybill_cli", "subscription", "change", slug, "--plan", "business", *WHY]


def test_a_quote_is_discarded_when_the_person_interrupts(on_stack, real_stack, subscriber) -> None:
    codes = [interrupted(real_stack, subscriber, after) for after in (b"quoting chg_", b"[y/N]")]

    changes = on_stack("subscription", "changes", subscriber, "--json").data
    assert codes == [ExitCode.INTERRUPTED, ExitCode.INTERRUPTED]
    assert [change["status"] for change in changes] == ["discarded", "discarded"]


def test_a_quote_is_discarded_when_the_pipe_is_closed(on_stack, real_stack, subscriber) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        change_command(subscriber),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writer,
        env=os.environ | real_stack.environment,
        check=False,
    )
    os.close(writer)

    changes = on_stack("subscription", "changes", subscriber, "--json").data
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, b"")
    assert [change["status"] for change in changes] == ["discarded"]


def test_a_quote_names_the_interval_before_and_after(on_stack, subscriber) -> None:
    yearly = on_stack("subscription", "change", subscriber, "--interval", "year", *WHY, "--dry-run")
    seats = on_stack("subscription", "change", subscriber, "--quantity", 2, *WHY, "--dry-run")

    assert "starter@1, quantity 1, per month -> starter@1, quantity 1, per year" in yearly.err
    assert "starter@1, quantity 1, per month -> starter@1, quantity 2, per month" in seats.err


def test_a_dry_run_prints_the_quote_and_discards_the_change(on_stack, subscriber) -> None:
    dry = on_stack("subscription", "change", subscriber, "--plan", "business", *WHY, "--dry-run", "--json")
    after = on_stack("subscription", "show", subscriber, "--json").data
    changes = on_stack("subscription", "changes", subscriber, "--json").data

    assert dry.code == ExitCode.OK
    assert dry.data["quote"]["proration"]["due_now"]["minor"] > 0
    assert "nothing was changed" in dry.err
    assert after["plan"]["plan"] == "starter"
    assert [change["status"] for change in changes] == ["discarded"]


def schedule_seats(real_stack, subscription: str, *quantities: int) -> None:
    """Schedules a phase at Stripe for each quantity, after the current period."""
    key = (real_stack.data_dir / "credentials" / "stripe-api-key").read_text().strip()
    http_client = stripe.RequestsClient()
    at = stripe.StripeClient(key, base_addresses={"api": real_stack.url("stripe_fake")}, http_client=http_client).v1
    schedule = at.subscription_schedules.create({"from_subscription": subscription})
    current = schedule.phases[0]
    price = str(current["items"][0].price)
    at.subscription_schedules.update(
        schedule.id,
        {
            "phases": [
                {
                    "items": [{"price": price, "quantity": 1}],
                    "start_date": current.start_date,
                    "end_date": current.end_date,
                },
                *({"items": [{"price": price, "quantity": quantity}]} for quantity in quantities),
            ]
        },
    )
    http_client.close()


def test_a_change_that_drops_scheduled_phases_is_refused_and_the_next_command_works(
    on_stack, real_stack, subscriber
) -> None:
    shown = on_stack("subscription", "show", subscriber, "--json").data
    schedule_seats(real_stack, shown["provider_subscription"], 3, 4)

    refused = on_stack("subscription", "change", subscriber, "--quantity", 2, *WHY, "--yes", "--json")
    dry_run = on_stack("subscription", "change", subscriber, "--quantity", 2, *WHY, "--dry-run")
    changes = on_stack("subscription", "changes", subscriber, "--json").data
    next_ = shlex.split(refused.error["next"])[1:]
    shown = on_stack(*next_)
    done = on_stack(*(word for word in next_ if word != "--dry-run"))

    assert (refused.error["code"], refused.code) == ("drops_scheduled_phases", ExitCode.CONFLICT)
    assert (dry_run.code, "drops what is scheduled" in dry_run.err) == (ExitCode.CONFLICT, True)
    assert "--drop-scheduled" in dry_run.err
    assert [change["status"] for change in changes] == ["discarded", "discarded"]
    assert (shown.code, shown.data["quote"]["proration"]["next_amount"]["minor"]) == (ExitCode.OK, 2 * 2900), shown.err
    assert (done.code, done.data["quantity"], done.data["pending"]) == (ExitCode.OK, 2, None), done.err


def test_a_change_at_the_end_of_the_period_is_scheduled_and_withdrawn(on_stack, subscriber) -> None:
    later = on_stack("subscription", "change", subscriber, "--plan", "team", "--when", "period_end", *WHY, "--yes")
    back = on_stack("subscription", "reactivate", subscriber, *WHY, "--yes", "--json")

    assert later.code == ExitCode.OK, later.err
    assert "then: team@" in later.out
    assert (back.code, back.data["pending"]) == (ExitCode.OK, None)


def test_a_subscription_is_cancelled_reactivated_paused_and_resumed(on_stack, subscriber) -> None:
    states = [
        on_stack("subscription", verb, subscriber, *WHY, "--yes", "--json").data
        for verb in ("cancel", "reactivate", "pause", "resume")
    ]

    assert [(one["cancel_at"] is not None, one["access"]) for one in states] == [
        (True, "active"),
        (False, "active"),
        (False, "paused"),
        (False, "active"),
    ]


def test_an_immediate_cancellation_ends_the_subscription(on_stack, subscriber) -> None:
    done = on_stack("subscription", "cancel", subscriber, "--when", "now", *WHY, "--yes", "--json")

    assert done.data["access"] == "ended"


def test_without_a_terminal_a_change_needs_yes_and_is_discarded_otherwise(on_stack, subscriber) -> None:
    unconfirmed = on_stack("subscription", "pause", subscriber, *WHY, "--json")
    again = on_stack("subscription", "pause", subscriber, *WHY, "--dry-run", "--json")

    assert (unconfirmed.code, unconfirmed.error["code"]) == (ExitCode.USAGE, "confirmation_needed")
    assert again.code == ExitCode.OK


def test_a_repeated_request_with_the_same_key_is_one_change(on_stack, subscriber) -> None:
    key = str(uuid.uuid4())
    command = ("subscription", "change", subscriber, "--quantity", 3, *WHY, "--yes", "--idempotency-key", key)

    codes = [on_stack(*command).code for _ in range(2)]
    changes = on_stack("subscription", "changes", subscriber, "--json").data

    assert codes == [ExitCode.OK, ExitCode.OK]
    assert [change["status"] for change in changes] == ["applied"]


def test_a_change_ends_with_its_status(on_stack, subscriber) -> None:
    done = on_stack("subscription", "change", subscriber, "--quantity", 3, *WHY, "--yes")

    (change,) = on_stack("subscription", "changes", subscriber, "--json").data
    assert done.code == ExitCode.OK
    assert done.err.splitlines()[-1] == f"{change['id']} is applied"


def test_a_dry_run_leaves_its_key_to_the_command_and_finds_the_executed_one(on_stack, subscriber) -> None:
    command = ("subscription", "change", subscriber, "--quantity", 3, *WHY, "--idempotency-key", str(uuid.uuid4()))

    before = on_stack(*command, "--dry-run", "--json").data
    done = on_stack(*command, "--yes", "--json")
    after = on_stack(*command, "--dry-run", "--json")

    assert (before["status"], done.code) == ("quoted", ExitCode.OK)
    assert (after.data["status"], after.data["id"] != before["id"]) == ("applied", True)
    assert "was already executed" in after.err
    statuses = [change["status"] for change in on_stack("subscription", "changes", subscriber, "--json").data]
    assert sorted(statuses) == ["applied", "discarded"]


def test_a_timeout_has_its_own_exit_code(on_stack, subscriber) -> None:
    done = on_stack("subscription", "change", subscriber, "--quantity", 4, *WHY, "--yes", "--timeout", 0, "--json")

    assert (done.code, done.error["code"]) == (ExitCode.TIMEOUT, "still_running")
    assert "--idempotency-key" in done.error["next"]


def test_subscriptions_are_listed_and_shown_by_id_and_by_tenant(on_stack, subscriber) -> None:
    by_tenant = on_stack("subscription", "show", subscriber, "--json").data
    by_id = on_stack("subscription", "show", by_tenant["subscription_id"], "--json").data
    rows = on_stack("subscription", "list", "--access", "active")
    few = on_stack("subscription", "list", "--limit", 1)

    assert by_id["subscription_id"] == by_tenant["subscription_id"]
    assert by_tenant["subscription_id"] in [row[0] for row in rows.rows]
    assert rows.out.splitlines()[0] == "subscription_id\ttenant\tplan\tquantity\taccess\tperiod_end\tthen"
    assert len(few.rows) == 1


def test_of_several_subscriptions_one_has_to_be_named(on_stack, real_stack, subscriber) -> None:
    first = on_stack("subscription", "show", subscriber, "--json").data
    key = (real_stack.data_dir / "credentials" / "stripe-api-key").read_text().strip()
    http_client = stripe.RequestsClient()
    at = stripe.StripeClient(key, base_addresses={"api": real_stack.url("stripe_fake")}, http_client=http_client).v1
    known = at.subscriptions.retrieve(first["provider_subscription"])
    second = at.subscriptions.create(
        {"customer": known.customer, "items": [{"price": known["items"].data[0].price.id}], "trial_period_days": 30}
    )
    http_client.close()

    until(lambda: on_stack("subscription", "show", subscriber, "--json").code == ExitCode.USAGE)
    refused = on_stack("subscription", "pause", subscriber, *WHY, "--json")
    shown = on_stack(*shlex.split(refused.error["next"])[1:], "--json")

    assert refused.error["code"] == "several_subscriptions"
    assert f"{first['subscription_id']} (starter@1)" in refused.error["what"]
    assert shown.data["provider_subscription"] in {first["provider_subscription"], second.id}


REFUSALS = [
    (("change", "--plan", "starter"), "nothing_to_change", ExitCode.CONFLICT),
    (("change", "--plan", "gold"), "unknown_plan", ExitCode.NOT_FOUND),
    (("change", "--plan", "no plan"), "usage", ExitCode.USAGE),
    (("change", "--quantity", 0), "quantity_out_of_bounds", ExitCode.USAGE),
    (("reactivate",), "nothing_to_reactivate", ExitCode.CONFLICT),
    (("resume",), "not_paused", ExitCode.CONFLICT),
]


def test_a_refusal_has_the_code_of_the_service(on_stack, subscriber) -> None:
    refused = [
        on_stack("subscription", verb, subscriber, *options, *WHY, "--yes", "--json")
        for (verb, *options), _, _ in REFUSALS
    ]

    assert [(done.error["code"], done.code) for done in refused] == [(code, exit_) for _, code, exit_ in REFUSALS]


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (("subscription", "show", "sub_" + "0" * 32), ExitCode.NOT_FOUND),
        (("subscription", "show", "no-such-tenant"), ExitCode.NOT_FOUND),
        (("subscription", "show", "../healthz"), ExitCode.USAGE),
        (("subscription", "discard", "chg_" + "0" * 32), ExitCode.NOT_FOUND),
        (("subscription", "discard", "../x"), ExitCode.USAGE),
        (("plans", "moves", "mov_" + "0" * 32), ExitCode.NOT_FOUND),
        (("plans", "moves", "../x"), ExitCode.USAGE),
        (("plans", "move", "starter", "team@1"), ExitCode.USAGE),
        (("plans", "move", "starter@1", "gold@1", "--reason", "x", "--yes"), ExitCode.NOT_FOUND),
        (("plans", "move", "starter@1", "team@1", "--yes"), ExitCode.USAGE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_missing_object_or_an_invalid_name_is_an_error(on_stack, arguments, exit_code: ExitCode) -> None:
    done = on_stack(*arguments, "--json")

    assert done.code == exit_code
    assert done.error["what"]


def test_all_subscriptions_are_migrated_with_a_progress_bar(on_stack, subscriber) -> None:
    preview = on_stack("plans", "move", "starter@1", "team@1", "--dry-run", "--json").data
    unconfirmed = on_stack("plans", "move", "starter@1", "team@1", "--reason", "new prices", "--json")
    done = on_stack(
        *("plans", "move", "starter@1", "team@1", "--when", "now", "--reason", "new prices", "--yes", "--json")
    )
    listed = on_stack("plans", "moves", "--json").data
    refused = on_stack("plans", "moves", done.data["id"], "--json").data
    late = on_stack("plans", "pause-move", done.data["id"], "--reason", "late", "--json")
    resumed = on_stack("plans", "resume-move", done.data["id"], "--json")

    assert preview["subscriptions"] >= 1
    assert (unconfirmed.code, unconfirmed.error["code"]) == (ExitCode.USAGE, "confirmation_needed")
    assert done.code == (ExitCode.FAILED if done.data["refused"] else ExitCode.OK)
    assert (done.data["status"], done.data["asked"]) == ("finished", done.data["moved"] + done.data["refused"])
    assert "migrated" in done.err
    assert done.data["id"] in [migration["id"] for migration in listed]
    assert len(refused) == done.data["refused"]
    assert [late.error["code"], resumed.error["code"]] == ["move_finished", "move_finished"]
    until(lambda: on_stack("subscription", "show", subscriber, "--json").data["plan"]["plan"] == "team")
