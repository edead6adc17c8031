"""`paybill key` on a real stack: four services, one log, and keys that are shown once."""

import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from paybill_cli.client.http import uses_tls
from paybill_cli.client.stack import SERVICES
from paybill_cli.client.waiting import Deadline
from paybill_cli.exit_codes import ExitCode
from paybill_embedded.credentials import write_private

SUBJECT = "user:staff-17"


def create(name: str, *more: str, role: str = "viewer", scopes: str = "*") -> list[str]:
    """Returns the arguments that create a key."""
    return ["key", "create", name, "--subject", SUBJECT, "--role", role, "--scopes", scopes, *more]


def statuses(real_stack, key: str) -> set[int]:
    """Returns the answers of all services to a request with a key."""
    headers = {"Authorization": f"Bearer {key}"}
    # Without certificates, which take longer to read than the requests that are timed.
    with httpx.Client(headers=headers, trust_env=False, verify=uses_tls("http:")) as client:
        return {client.get(f"{real_stack.url(service)}/v1/operations").status_code for service in SERVICES}


def until_all(real_stack, key: str, status: int) -> float:
    """Waits until all services answer with a status; returns the seconds that it took."""
    began, deadline = time.monotonic(), Deadline(10)
    while statuses(real_stack, key) != {status}:
        deadline.pause(f"all services answer {status}")
    return time.monotonic() - began


def test_a_key_is_accepted_by_every_service_and_refused_within_a_second_of_its_revocation(on_stack, real_stack) -> None:
    made = on_stack(*create("all-services"), "--expires", "1h", "--json").data
    until_all(real_stack, made["key"], 200)

    preview = on_stack("key", "revoke", made["id"], "--dry-run", "--json").data
    before = statuses(real_stack, made["key"])
    revoked = on_stack("key", "revoke", made["id"], "--yes", "--json").data
    took_s = until_all(real_stack, made["key"], 401)

    assert [fact["sentence"] for fact in preview["would_record"]] == [
        f"API key {made['id']} of {SUBJECT} revoked by user:operator"
    ]
    assert before == {200}
    assert (revoked["status"], revoked["revoked_by"]) == ("revoked", "user:operator")
    assert took_s < 1


def test_a_command_runs_with_a_new_key_and_an_expired_one_is_denied(on_stack, real_stack) -> None:
    made = on_stack(*create("reports"), "--json").data
    until_all(real_stack, made["key"], 200)

    reads = on_stack("tenant", "list", PAYBILL_API_KEY=made["key"])
    writes = on_stack(*create("mine"), "--json", PAYBILL_API_KEY=made["key"])

    assert reads.code == ExitCode.OK
    assert (writes.code, writes.error["code"]) == (ExitCode.DENIED, "wrong_scope")


def test_the_key_is_on_stdout_once_and_its_name_is_in_the_log(on_stack) -> None:
    made = on_stack(*create("shown-once", scopes="tenant:read,billing:read"))
    listed = on_stack("key", "list", "--subject", SUBJECT, "--json")
    shown = dict(line.split(": ", 1) for line in made.out.splitlines())
    found = next(key for key in listed.data if key["id"] == shown["id"])

    assert made.code == ExitCode.OK
    assert shown["key"].startswith(f"pbk_{shown['id']}_")
    assert shown["scopes"] == "tenant:read, billing:read"
    assert "the key is shown only now" in made.err
    assert (found["name"], found["status"], found["created_by"]) == ("shown-once", "active", "user:operator")
    assert shown["key"] not in listed.out
    assert "key" not in found


def test_the_first_key_is_listed_and_no_command_revokes_it(on_stack) -> None:
    first = on_stack("key", "list", "--json").data[0]

    refused = on_stack("key", "revoke", first["id"], "--yes", "--json")

    assert (first["source"], first["subject"], first["role"]) == ("file", "user:operator", "admin")
    assert (refused.code, refused.error["code"]) == (ExitCode.CONFLICT, "key_in_file")
    assert refused.error["next"].startswith("paybill key rotate")
    assert on_stack("key", "list").code == ExitCode.OK


def test_the_operators_key_is_replaced_while_the_stack_runs(on_stack, real_stack) -> None:
    file = real_stack.data_dir / "api-keys.json"
    stored = file.read_text()

    preview = on_stack("key", "rotate", "--dry-run", "--json").data
    refused = on_stack("key", "rotate", "--json")
    unchanged = file.read_text()
    try:
        made = on_stack("key", "rotate", "--yes", "--json").data
        new, old = statuses(real_stack, made["key"]), statuses(real_stack, real_stack.key)
        secret_is_stored = made["key"].rpartition("_")[2] in file.read_text()
    finally:
        write_private(file, stored)  # of the session

    assert (preview, unchanged, refused.error["code"]) == ({"ends": "op1"}, stored, "confirmation_needed")
    assert (made["ends"], new, old) == ("op1", {200}, {401})
    assert made["key"].startswith("pbk_op2_")
    assert not secret_is_stored
    assert statuses(real_stack, real_stack.key) == {200}


def test_a_folder_without_a_stack_has_no_operators_key(paybill, tmp_path) -> None:
    refused = paybill("key", "rotate", "--yes", "--json", "--data-dir", str(tmp_path))

    assert (refused.code, refused.error["code"]) == (ExitCode.NOT_FOUND, "operator_key_not_found")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["90d", "date"])
def test_a_repeated_command_creates_no_second_key_and_names_the_next_step(on_stack, end: str) -> None:
    end = (datetime.now(UTC) + timedelta(days=60)).date().isoformat() if end == "date" else end
    arguments = [*create("repeated"), "--expires", end, "--idempotency-key", f"repeated-{end}", "--json"]

    first, again = on_stack(*arguments), on_stack(*arguments)

    assert (again.code, again.error["code"]) == (ExitCode.CONFLICT, "key_not_shown_again")
    assert again.error["next"] == f"paybill key revoke {first.data['id']}"
    assert again.out == ""


def test_a_key_with_more_rights_than_ones_own_is_denied(on_stack, real_stack) -> None:
    made = on_stack(*create("limited", role="admin", scopes="tenant:read,tenant:write"), "--json").data
    key = made["key"]

    more = on_stack(*create("more", role="admin"), "--json", PAYBILL_API_KEY=key)
    less = on_stack(*create("less", scopes="tenant:read"), "--json", PAYBILL_API_KEY=key)

    assert (more.code, more.error["code"]) == (ExitCode.DENIED, "key_exceeds_rights")
    assert (less.code, less.data["created_by"]) == (ExitCode.OK, SUBJECT)


def test_a_revocation_needs_a_confirmation_and_a_known_key(on_stack) -> None:
    made = on_stack(*create("confirmed"), "--json").data

    asked = on_stack("key", "revoke", made["id"], "--json")
    unknown = on_stack("key", "revoke", "key-unknown", "--yes", "--json")

    assert (asked.code, asked.error["code"]) == (ExitCode.USAGE, "confirmation_needed")
    assert asked.error["what"].startswith(f"Revoke {made['id']} (confirmed) of {SUBJECT}?")
    assert (unknown.code, unknown.error["code"]) == (ExitCode.NOT_FOUND, "key_not_found")
    assert (unknown.error["next"], made["status"]) == ("paybill key list", "active")


def test_a_dry_run_creates_nothing(on_stack) -> None:
    preview = on_stack(*create("planned"), "--dry-run", "--json")
    names = {key["name"] for key in on_stack("key", "list", "--limit", "1000", "--json").data}

    (fact,) = preview.data["would_record"]
    assert (fact["type"], fact["payload"]["name"]) == ("tenant.key_created", "planned")
    assert "pbk_" not in json.dumps(preview.data)
    assert "planned" not in names


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (create("x", "--expires", "soon"), "usage"),
        (create("x", "--expires", "367d"), "key_expiry_out_of_range"),
        (create("x", scopes="tenants:read"), "unknown_scope"),
        (create("x", scopes=","), "invalid_request"),
        (create("A name"), "invalid_request"),
        (["key", "create", "x", "--subject", "somebody", "--role", "viewer", "--scopes", "*"], "invalid_request"),
        (["key", "revoke", "../tenants", "--yes"], "usage"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_with_a_next_step(on_stack, arguments: list[str], code: str) -> None:
    done = on_stack(*arguments, "--json")

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, code)
    assert done.error["next"]
