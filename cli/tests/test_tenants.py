"""Tests of `paybill tenant` with the real services."""

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import pytest
from paybill_cli.exit_codes import ExitCode


def create(slug: str, *more: object, plan: str = "starter", region: str = "eu-central") -> list[object]:
    return ["tenant", "create", slug, "--plan", plan, "--region", region, "--email", "ops@acme.example", *more]


def test_a_new_tenant_has_a_checkout(on_stack) -> None:
    done = on_stack(*create("paying"))

    fields = dict(line.split(": ", 1) for line in done.out.splitlines())
    assert done.code == ExitCode.OK
    assert (fields["slug"], fields["status"], fields["holds"]) == ("paying", "requested", "-")
    assert fields["checkout_url"].startswith("http://127.0.0.1:")
    assert "ops@acme.example" not in done.out + done.err
    assert "next: pay at the checkout" in done.err


def test_a_sign_up_chooses_interval_and_seats_and_shows_its_price(on_stack) -> None:
    terms = ["--interval", "year", "--currency", "EUR", "--seats", 3]
    preview = on_stack(*create("yearly", *terms, "--dry-run"))
    refused = on_stack(*create("yearly", "--currency", "USD", "--dry-run"))
    done = on_stack(*create("yearly", *terms))

    assert "yearly would pay 3 x 290.00 EUR per year: 870.00 EUR" in preview.err
    assert {"unit_price: 290.00 EUR", "total: 870.00 EUR"} <= set(preview.out.splitlines())
    assert refused.code == ExitCode.USAGE
    assert "29.00 EUR per month, 290.00 EUR per year" in refused.err
    assert "price: 3 x 290.00 EUR per year" in done.out


@pytest.mark.parametrize("wait", [(), ("--wait",)], ids=["returns", "waits"])
def test_a_sign_up_that_the_provider_refuses_fails_at_once(on_stack, wait: tuple[str, ...]) -> None:
    slug = f"refused{len(wait)}"
    done = on_stack(*create(slug, "--coupon", "NOSUCH", *wait))
    on_stack("tenant", "offboard", slug, "--reason", "refused", "--yes")

    assert on_stack(*create(slug)).code == 0
    assert done.code == ExitCode.FAILED
    assert "error[account_refused] billing could not open the account" in done.err
    assert f"  next  paybill why {slug}" in done.err
    assert f"free the slug: paybill tenant offboard {slug} --reason refused" in done.err
    assert "status: requested" in done.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("paybill tenant show compl", "completed"),
        ("paybill tenant create acme --plan star", "starter"),
        ("paybill tenant create acme --region eu-", "eu-central"),
        ("paybill subscription change compl", "completed"),
        ("paybill subscription change acme --plan star", "starter"),
        ("paybill plans show star", "starter"),
        ("paybill plans move starter@", "starter@1"),
        ("paybill events tail --tenant compl", "completed"),
    ],
)
def test_tenants_plans_and_regions_are_completed(real_stack, on_stack, words, expected) -> None:
    on_stack(*create("completed"))
    shell = {"_PAYBILL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [Path(sys.executable).parent / "paybill"],
        env=real_stack.environment | shell,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.split() == [expected]


def test_the_stack_of_the_current_context_completes_tenants(paybill, real_stack, on_stack) -> None:
    on_stack(*create("contextual"))
    paybill("context", "add", "laptop", "--data-dir", real_stack.data_dir)
    shell = {
        "_PAYBILL_COMPLETE": "complete_bash",
        "COMP_WORDS": "paybill tenant show contex",
        "COMP_CWORD": "3",
        "PAYBILL_API_KEY": real_stack.key,
        "XDG_CONFIG_HOME": os.environ["XDG_CONFIG_HOME"],
    }
    done = subprocess.run(
        [Path(sys.executable).parent / "paybill"], env=shell, capture_output=True, text=True, check=False
    )

    assert done.stdout.split() == ["contextual"]


def test_wait_returns_when_the_tenant_is_active(real_stack, customers) -> None:
    command = [sys.executable, "-m", "paybill_cli", *map(str, create("followed", "--wait", "--json"))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=real_stack.environment) as process:
        messages = [process.stderr.readline()]
        while "the payment at " not in messages[-1]:
            messages.append(process.stderr.readline())
        customers.pay(re.search(r"http\S+", messages[-1])[0])
        out, rest = process.communicate(timeout=60)

    tenant = json.loads(out)["data"]
    assert process.returncode == ExitCode.OK
    assert (tenant["status"], tenant["environment"]["epoch"]) == ("active", 1)
    assert messages[0].startswith("followed is requested")
    assert rest.splitlines()[-1].startswith("followed is active")


def test_a_timeout_prints_the_id_and_has_its_own_exit_code(on_stack) -> None:
    done = on_stack(*create("slow", "--wait", "--timeout", 0.5, "--json"))

    assert done.code == ExitCode.TIMEOUT
    assert done.error["code"] == "still_running"
    assert "ten_" in done.error["what"]
    assert done.error["next"] == "paybill tenant show slow"


def test_a_repeated_request_with_the_same_key_is_executed_once(on_stack) -> None:
    key = str(uuid.uuid4())
    first, again = (on_stack(*create("once", "--idempotency-key", key, "--json")).data for _ in range(2))
    other = on_stack(*create("twice", "--idempotency-key", key, "--json"))
    dry_run = on_stack(*create("once", "--idempotency-key", key, "--dry-run", "--json"))
    new = on_stack(*create("once", "--idempotency-key", str(uuid.uuid4()), "--dry-run", "--json"))

    assert first["id"] == again["id"] == dry_run.data["id"]
    assert "was already executed" in dry_run.err
    assert new.error["code"] == "slug_taken"
    assert (other.code, other.error["code"]) == (ExitCode.USAGE, "idempotency_key_reused")


def test_tenants_are_listed_in_the_order_of_their_slugs_over_all_pages(on_stack, customers) -> None:
    made = {customers.sign_up()["slug"] for _ in range(3)}

    tenants = on_stack("tenant", "list", "--json").data
    plain = on_stack("tenant", "list")
    limited = on_stack("tenant", "list", "--limit", 2)

    slugs = [tenant["slug"] for tenant in tenants]
    assert made <= set(slugs)
    assert slugs == sorted(slugs)
    assert plain.out.splitlines()[0] == "slug\tstatus\tplan\tregion\tbilling\tinfrastructure\tage\tid"
    assert [row[0] for row in plain.rows] == slugs
    assert [row[0] for row in limited.rows] == slugs[:2]
    assert "there are more than 2" in limited.err


def test_tenants_are_listed_by_status(on_stack, customers) -> None:
    held = customers.sign_up()["slug"]

    requested = on_stack("tenant", "list", "--status", "requested", "--json").data
    wrong = on_stack("tenant", "list", "--status", "happy", "--json")

    assert held in {tenant["slug"] for tenant in requested}
    assert {tenant["status"] for tenant in requested} == {"requested"}
    assert (wrong.code, wrong.error["code"]) == (ExitCode.USAGE, "usage")


def test_tenants_are_listed_by_plan_region_and_customer(on_stack, real_stack, customers) -> None:
    tenant = customers.sign_up(plan="team")
    account = httpx.get(
        f"{real_stack.url('billing')}/v1/tenants/{tenant['id']}/account",
        headers={"Authorization": f"Bearer {real_stack.key}"},
        trust_env=False,
    )
    customer = account.json()["customer"]

    found = on_stack("tenant", "list", "--customer", customer)
    elsewhere = on_stack("tenant", "list", "--customer", customer, "--region", "us-east", "--json").data
    unknown = on_stack("tenant", "list", "--customer", "cus_nobody", "--json").data
    on_plan = on_stack("tenant", "list", "--plan", "team", "--region", "eu-central", "--json").data

    (row,) = found.rows
    fields = dict(zip(found.out.splitlines()[0].split("\t"), row, strict=True))
    assert (fields["slug"], fields["plan"]) == (tenant["slug"], "team")
    assert (fields["billing"], fields["infrastructure"]) == ("pending", "none")
    assert re.fullmatch(r"\d+ (s|min|h)( \d+ (s|min))?", fields["age"])
    assert elsewhere == unknown == []
    assert tenant["slug"] in [each["slug"] for each in on_plan]


def test_a_tenant_is_shown_by_slug_and_by_id(on_stack, customers) -> None:
    tenant = customers.sign_up()

    by_slug = on_stack("tenant", "show", tenant["slug"], "--json").data
    by_id = on_stack("tenant", "show", tenant["id"], "--json").data

    assert by_slug == by_id
    assert by_slug["id"] == tenant["id"]


def test_a_tenant_is_suspended_and_resumed(on_stack, customers) -> None:
    slug = customers.sign_up()["slug"]

    held = on_stack("tenant", "suspend", slug, "--reason", "abuse report 7", "--mode", "read_only", "--yes")
    free = on_stack("tenant", "resume", slug, "--json").data

    assert "holds: operator (read_only): abuse report 7" in held.out
    assert free["holds"] == []


@pytest.mark.parametrize("verb", ["suspend", "offboard"])
def test_without_a_terminal_a_confirmation_needs_yes(on_stack, customers, verb: str) -> None:
    slug = customers.sign_up()["slug"]

    done = on_stack("tenant", verb, slug, "--reason", "why", "--json")

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, "confirmation_needed")
    assert on_stack("tenant", "show", slug, "--json").data["status"] == "requested"
    assert on_stack("tenant", "show", slug, "--json").data["holds"] == []


def test_tenants_are_found_by_their_contact_address(on_stack, customers) -> None:
    slug = customers.sign_up()["slug"]

    found = on_stack("tenant", "list", "--email", "OPS@acme.example", "--json").data
    nobody = on_stack("tenant", "list", "--email", "nobody@unknown.example", "--json").data

    assert slug in [each["slug"] for each in found]
    assert nobody == []


def test_a_checkout_can_be_printed_again(on_stack, customers) -> None:
    tenant = customers.sign_up()

    again = on_stack("tenant", "checkout", tenant["slug"], "--json").data

    assert again["url"] == tenant["checkout_url"]


def test_a_legal_hold_refuses_offboarding_until_its_release(on_stack, customers) -> None:
    slug = customers.sign_up()["slug"]

    held = on_stack("tenant", "hold", slug, "--legal", "--case", "2026-17")
    refused = on_stack("tenant", "offboard", slug, "--reason", "contract ended", "--yes", "--json")
    freed = on_stack("tenant", "release", slug, "--legal", "--case", "2026-17", "--json").data

    assert "legal_holds: 2026-17" in held.out
    assert (refused.code, refused.error["code"]) == (ExitCode.CONFLICT, "legal_hold")
    assert freed["legal_holds"] == []


@pytest.mark.parametrize("verb", ["hold", "release"])
def test_a_legal_hold_needs_its_option(paybill, verb: str) -> None:
    done = paybill("tenant", verb, "acme", "--case", "2026-17", "--json")

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, "legal_missing")


def test_offboarding_prints_its_steps_and_cannot_be_undone(on_stack, customers) -> None:
    slug, id_ = (tenant := customers.sign_up())["slug"], tenant["id"]
    done = on_stack("tenant", "offboard", slug, "--reason", "contract ended", "--yes")
    after = on_stack("tenant", "suspend", id_, "--reason", "late", "--yes", "--json")

    assert done.code == ExitCode.OK
    assert "cancel its subscription" in done.err
    assert "retain its data" in done.err
    assert "status: cancelled" in done.out
    assert (after.code, after.error["code"]) == (ExitCode.CONFLICT, "tenant_left")
    again = on_stack("tenant", "offboard", id_, "--reason", "again", "--yes")
    assert again.err.splitlines() == [f"{slug} ({slug}) is cancelled"]


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (create("refused", plan="gold"), "unknown_plan", ExitCode.USAGE),
        (create("refused", region="moon"), "unknown_region", ExitCode.USAGE),
        (create("No Slug"), "invalid_request", ExitCode.USAGE),
        (create("admin"), "slug_reserved", ExitCode.USAGE),
        (["tenant", "show", "nobody"], "tenant_not_found", ExitCode.NOT_FOUND),
        (["tenant", "resume", "nobody"], "tenant_not_found", ExitCode.NOT_FOUND),
        (["tenant", "show", "../../healthz"], "usage", ExitCode.USAGE),
    ],
    ids=["plan", "region", "slug", "reserved", "show", "resume", "path"],
)
def test_a_refusal_has_the_code_of_the_service_and_a_trace(
    on_stack, arguments: list[object], code: str, exit_code: ExitCode
) -> None:
    done = on_stack(*arguments, "--json")

    assert (done.code, done.error["code"]) == (exit_code, code)
    assert done.error["what"]
    assert code == "usage" or len(done.error["trace_id"]) == 32


def test_a_slug_belongs_to_one_tenant(on_stack, customers) -> None:
    slug = customers.sign_up()["slug"]

    done = on_stack(*create(slug), "--json")

    assert (done.code, done.error["code"]) == (ExitCode.CONFLICT, "slug_taken")


def test_a_caller_without_a_key_or_with_a_wrong_one_is_refused(on_stack, real_stack, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(real_stack.key + "\n")

    none = on_stack("tenant", "list", "--json", PAYBILL_API_KEY="")
    wrong = on_stack("tenant", "list", "--json", PAYBILL_API_KEY="pbk_op1_" + "x" * 43)
    from_file = on_stack("tenant", "list", "--api-key-file", file, PAYBILL_API_KEY="wrong")
    missing = on_stack("tenant", "list", "--api-key-file", tmp_path / "none", "--json")

    assert (none.code, none.error["code"]) == (ExitCode.DENIED, "no_key")
    assert (wrong.code, wrong.error["code"]) == (ExitCode.DENIED, "wrong_key")
    assert from_file.code == ExitCode.OK
    assert (missing.code, missing.error["code"]) == (ExitCode.USAGE, "secret_unreadable")


def test_the_key_is_never_printed(on_stack, real_stack) -> None:
    done = on_stack("tenant", "list", "--tenant-url", "http://127.0.0.1:9")

    assert done.code == ExitCode.UNREACHABLE
    assert real_stack.key not in done.out + done.err


def test_an_answer_of_another_server_is_an_error(on_stack, real_stack) -> None:
    done = on_stack("tenant", "list", "--tenant-url", real_stack.url("stripe_fake"), "--json")

    assert done.code != ExitCode.OK
    assert done.error["what"]


def test_an_unreachable_service_is_an_error_with_the_option_that_repeats_the_request(on_stack) -> None:
    done = on_stack(*create("away", "--tenant-url", "http://127.0.0.1:9"), "--json")

    assert (done.code, done.error["code"]) == (ExitCode.UNREACHABLE, "service_unreachable")
    assert "--idempotency-key" in done.err


def test_a_person_can_decline_the_confirmation(real_stack, customers) -> None:
    slug = customers.sign_up()["slug"]
    command = [sys.executable, "-m", "paybill_cli", "tenant", "suspend", slug, "--reason", "x"]
    code = (
        "import os, pty, sys\n"
        "pid, leader = pty.fork()\n"
        f"if pid == 0: os.execv({sys.executable!r}, {command!r})\n"
        "os.write(leader, b'n\\n')\n"
        "shown = b''\n"
        "try:\n while True: shown += os.read(leader, 4096)\n"
        "except OSError: print(shown.decode())\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=real_stack.environment
    )

    assert done.returncode == ExitCode.FAILED
    assert f"Suspend {slug} (blocked)?" in done.stdout
    assert "not_confirmed" in done.stdout
