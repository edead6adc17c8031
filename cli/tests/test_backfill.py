"""Tests of `paybill provider backfill`: validation of the file, and idempotent adoption of customers."""

import os
import signal
import subprocess
import sys
from itertools import count

import pytest
import stripe
from paybill_cli.commands.customers_file import COLUMNS, MAX_BYTES, read_customers
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode

EMAIL = "somebody.unlikely@acme.example"
GOOD = ["cus_1", "acme", "Acme", EMAIL, "starter", "eu-central"]
_numbers = count(1)


def written(tmp_path, *rows, header=COLUMNS):
    path = tmp_path / "customers.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in (header, *rows)) + "\n", encoding="utf-8")
    return path


def changed(**cells):
    return [cells.get(column, value) for column, value in zip(COLUMNS, GOOD, strict=True)]


def refused(path) -> str:
    with pytest.raises(CliError) as error:
        read_customers(path)
    assert error.value.exit_code is ExitCode.USAGE
    assert "unlikely" not in error.value.text()
    return error.value.text()


def test_columns_have_any_order_and_a_byte_order_mark_is_accepted(tmp_path) -> None:
    path = written(tmp_path, reversed(GOOD), header=reversed(COLUMNS))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    (row,) = read_customers(path)

    assert (row.line, row.customer, row.slug, row.email) == (2, "cus_1", "acme", EMAIL)
    assert "unlikely" not in repr(row)


@pytest.mark.parametrize(
    "header",
    [
        (*COLUMNS, "note"),
        (*COLUMNS, "slug"),
        COLUMNS[:-1],
        ("customer", "customer", *COLUMNS[2:]),
        (),
    ],
)
def test_unknown_missing_and_duplicate_columns_are_refused(tmp_path, header) -> None:
    assert "line 1: the columns are" in refused(written(tmp_path, header=header))


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        ({"customer": ""}, "customer"),
        ({"customer": "cus 1"}, "customer"),
        ({"slug": "Acme"}, "slug"),
        ({"slug": "a" * 41}, "slug"),
        ({"name": ""}, "name"),
        ({"name": "Ac\x00me"}, "name"),
        ({"name": "x" * 501}, "name"),
        ({"email": "somebody.unlikely"}, "email"),
        ({"email": "un likely@acme.example"}, "email"),
        ({"plan": "Starter!"}, "plan"),
        ({"region": ""}, "region"),
    ],
)
def test_an_invalid_cell_is_reported_by_line_and_column_without_its_content(tmp_path, cells, column) -> None:
    assert f"line 3: {column} is wrong" in refused(written(tmp_path, GOOD, changed(**cells)))


def test_all_errors_are_reported_at_once(tmp_path) -> None:
    text = refused(written(tmp_path, changed(slug="A"), GOOD[:-1], changed(customer="", plan="")))

    assert "line 2: slug" in text
    assert "line 3: it has 5 columns instead of 6" in text
    assert "line 4: customer" in text
    assert "line 4: plan" in text


def test_a_duplicate_customer_or_slug_is_refused_with_both_lines(tmp_path) -> None:
    text = refused(written(tmp_path, GOOD, changed(slug="other"), changed(customer="cus_2")))

    assert "line 3: the customer cus_1 is on line 2 already" in text
    assert "line 4: the slug acme is on line 2 already" in text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "line 1"),
        (",".join(COLUMNS).encode(), "it has no rows"),
        (",".join(COLUMNS).encode() + b"\n\xff\xfe\n", "line 2: it is not UTF-8"),
        (",".join(COLUMNS).encode() + b'\n"cus_1\n', "line 2"),
        (b"x" * (MAX_BYTES + 1), "larger than 32 MiB"),
    ],
)
def test_an_invalid_csv_is_refused_with_the_reason(tmp_path, content, text) -> None:
    path = tmp_path / "customers.csv"
    path.write_bytes(content)

    assert text in refused(path)


def test_a_missing_file_is_refused(paybill, tmp_path) -> None:
    done = paybill("provider", "backfill", "stripe", "--customers", tmp_path / "none.csv", "--json")

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, "usage")


@pytest.fixture
def at_stripe(real_stack):
    """Creates customers at the Stripe fake, with a subscription to a price with or without a plan."""
    key = (real_stack.data_dir / "credentials" / "stripe-api-key").read_text().strip()
    http_client = stripe.RequestsClient()
    at = stripe.StripeClient(key, base_addresses={"api": real_stack.url("stripe_fake")}, http_client=http_client).v1

    def price(metadata):
        old = {"currency": "eur", "unit_amount": 100, "recurring": {"interval": "month"}}
        return at.prices.create(old | {"product_data": {"name": "Old"}, "metadata": metadata}).id

    ours, strange = price({"paybill_plan": "team", "paybill_version": "1"}), price({})

    def make(sells=True, subscribed=True):
        customer = at.customers.create({"name": "Old", "email": EMAIL}).id
        if subscribed:
            items = [{"price": ours if sells else strange}]
            at.subscriptions.create({"customer": customer, "items": items, "trial_period_days": 30})
        return changed(customer=customer, slug=f"old{next(_numbers)}")

    yield make
    http_client.close()


def backfill(on_stack, path, *more):
    return on_stack("provider", "backfill", "stripe", "--customers", path, *more, "--json")


def states(done):
    return {one["slug"]: one["state"] for one in done.data}


def test_a_dry_run_predicts_each_row_and_creates_nothing(on_stack, at_stripe, tmp_path) -> None:
    ready, unsold, unseen = at_stripe(), at_stripe(sells=False), at_stripe(subscribed=False)
    other = changed(customer=at_stripe()[0], slug="gold1", plan="gold")
    path = written(tmp_path, ready, unsold, unseen, other)

    done = backfill(on_stack, path, "--dry-run")

    assert (done.code, "no tenant was created" in done.err) == (ExitCode.FAILED, True)
    assert [one["state"] for one in done.data] == ["ready", "unsold", "unseen", "refused"]
    assert [one["plan"] for one in done.data] == ["team@1", None, None, None]
    assert on_stack("tenant", "show", ready[1], "--json").code == ExitCode.NOT_FOUND
    assert "unlikely" not in done.out + done.err


def test_customers_become_tenants_once_and_refusals_have_a_reason(on_stack, at_stripe, tmp_path) -> None:
    first, second, unsold = at_stripe(), at_stripe(), at_stripe(sells=False)
    missing = changed(customer="cus_nobody", slug=f"old{next(_numbers)}")
    path = written(tmp_path, first, second, unsold, missing)

    unconfirmed = backfill(on_stack, path)
    done = backfill(on_stack, path, "--yes")
    again = backfill(on_stack, path, "--yes")
    dry = backfill(on_stack, path, "--dry-run")

    assert (unconfirmed.code, unconfirmed.error["code"]) == (ExitCode.USAGE, "confirmation_needed")
    assert done.code == again.code == ExitCode.FAILED
    assert [one["state"] for one in done.data] == ["active", "active", "waiting", "refused"]
    assert "provider_prices" in done.data[2]["why"]
    assert "Stripe has no such object" in done.data[3]["why"]
    assert again.data == done.data
    assert [one["state"] for one in dry.data] == ["done", "done", "done", "refused"]
    assert "4 of 4 adopted" in done.err
    assert "1 refused" in done.err
    assert "unlikely" not in "".join(run.out + run.err for run in (unconfirmed, done, again, dry))


def test_a_taken_slug_or_customer_is_refused(on_stack, at_stripe, customers, tmp_path) -> None:
    taken, mine = customers.sign_up()["slug"], at_stripe()
    assert backfill(on_stack, written(tmp_path, mine), "--yes").code == ExitCode.OK
    stranger = changed(customer=at_stripe()[0], slug=taken)
    second = changed(customer=mine[0], slug=f"old{next(_numbers)}")
    path = written(tmp_path, stranger, second)

    dry, done = backfill(on_stack, path, "--dry-run"), backfill(on_stack, path, "--yes")

    assert [one["state"] for one in (*dry.data, *done.data)] == ["refused"] * 4
    assert f"the slug {taken} is another tenant's" in done.data[0]["why"]
    assert "another tenant" in done.data[1]["why"]


def test_a_dry_run_finds_a_tenant_that_was_requested_and_has_left(on_stack, at_stripe, tmp_path) -> None:
    row = at_stripe(subscribed=False)
    path = written(tmp_path, row)
    backfill(on_stack, path, "--yes")
    on_stack("tenant", "offboard", row[1], "--reason", "mistake", "--yes")

    dry, done = backfill(on_stack, path, "--dry-run"), backfill(on_stack, path, "--yes")

    assert [(one["state"], one["why"]) for one in dry.data] == [("refused", "it is cancelled")]
    assert (dry.data[0]["state"], dry.data[0]["tenant_id"]) == (done.data[0]["state"], done.data[0]["tenant_id"])


def test_an_interrupted_backfill_continues(on_stack, real_stack, at_stripe, tmp_path) -> None:
    rows = [at_stripe() for _ in range(5)]
    path = written(tmp_path, *rows)
    command = [sys.executable, "-m", "paybill_cli", "provider", "backfill", "stripe"]
    command += ["--customers", str(path), "--at-once", "1", "--yes"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | real_stack.environment
    ) as ended:
        while "2 of 5 adopted" not in ended.stderr.readline():
            assert ended.poll() is None
        ended.send_signal(signal.SIGINT)
        messages = ended.communicate(timeout=20)[1]

    done = backfill(on_stack, path, "--yes")

    assert (ended.returncode, "the same command continues" in messages) == (ExitCode.INTERRUPTED, True)
    assert (done.code, set(states(done).values())) == (ExitCode.OK, {"active"})
    mine = {row[1] for row in rows}
    tenants = [one for one in on_stack("tenant", "list", "--json").data if one["slug"] in mine]
    assert len(tenants) == len(rows)


def test_providers_are_listed_and_one_without_adoption_is_refused(on_stack, tmp_path) -> None:
    listed = {row[0]: row for row in on_stack("provider", "list").rows}
    path = written(tmp_path, GOOD)
    manual = on_stack("provider", "backfill", "manual", "--customers", path, "--yes", "--json")
    unknown = on_stack("provider", "backfill", "gold", "--customers", path, "--yes", "--json")

    assert listed["stripe"][1:] == ["true", "messages, redelivers, lists, adopts, meters, portal"]
    assert listed["manual"][1:] == ["false", "-"]
    assert (manual.code, manual.error["code"]) == (ExitCode.CONFLICT, "cannot_adopt")
    assert (unknown.code, unknown.error["code"]) == (ExitCode.NOT_FOUND, "cannot_adopt")
    assert "stripe" in unknown.error["why"]


def test_one_tenant_is_created_for_an_existing_customer(on_stack, at_stripe) -> None:
    customer, slug = at_stripe()[:2]
    options = ("--plan", "team", "--region", "eu-central", "--email", EMAIL)

    done = on_stack("tenant", "create", slug, *options, "--customer", customer, "--wait", "--json")

    assert (done.code, done.data["status"], done.data["checkout_url"]) == (ExitCode.OK, "active", None)
