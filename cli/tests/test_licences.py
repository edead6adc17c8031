"""Tests of `paybill licence`: issuing on the real stack, and offline verification."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paybill_cli.exit_codes import ExitCode
from paybill_contracts.catalogue import PlanRef
from paybill_licence import (
    Licence,
    Revocation,
    Revocations,
    assemble,
    base64url,
    jwk,
    key_id,
    signing_input,
)
from polling import until

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
ID = "lic_" + "a" * 32
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def signed(claims) -> str:
    return assemble(claims, base64url(KEY.sign(signing_input(claims))))


LICENCE = Licence(
    alg="Ed25519",
    kid=key_id(PUBLIC),
    licence_id=ID,
    tenant_id="ten_" + "b" * 32,
    subscription_id="sub_" + "c" * 32,
    plan=PlanRef(plan="pro", version=2, catalogue_hash="d" * 64),
    tier="pro",
    features=(),
    entitlements_hash="e" * 64,
    seats=3,
    issued_at=START,
    not_before=START,
    expires_at=START + timedelta(days=30),
    revision=4,
)
REVOKED = Revocations(
    alg="Ed25519",
    kid=key_id(PUBLIC),
    number=7,
    issued_at=START,
    next_update=START + timedelta(days=7),
    revoked=(Revocation(licence_id=ID, revision=4),),
)
TOKEN = signed(LICENCE)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Returns a folder with a licence, the keys and two revocation lists."""
    (tmp_path / "licence").write_text(f"{TOKEN}\n")
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [jwk(base64url(PUBLIC))]}))
    (tmp_path / "revoked").write_text(f"{signed(REVOKED)}\n")
    (tmp_path / "none").write_text(signed(REVOKED.model_copy(update={"revoked": ()})))
    return tmp_path


@pytest.fixture
def verify(paybill, files):
    """Runs `paybill licence verify` on the files, at a time at which the licence is valid."""

    def run(*more: object, file: object = files / "licence", at: str = "2026-03-02T12:00:00Z"):
        return paybill("licence", "verify", file, "--keys", files / "keys.json", "--at", at, *more)

    return run


def test_a_valid_licence_is_verified_offline(verify, files) -> None:
    people = verify("--revocations", files / "none")
    program = verify("--json")

    assert (people.code, program.code, people.err) == (ExitCode.OK, ExitCode.OK, "")
    assert people.out.startswith(f"advice: valid\nlicence_id: {ID}\n")
    assert program.data == {**LICENCE.model_dump(mode="json"), "advice": "valid"}


def test_a_licence_in_its_last_third_should_be_renewed(verify) -> None:
    assert verify("--json", at="2026-03-25T12:00:00+00:00").data["advice"] == "renew_soon"


def test_a_licence_is_read_from_standard_input(files) -> None:
    command = [sys.executable, "-m", "paybill_cli", "licence", "verify", "-", "--keys", str(files / "keys.json")]
    command += ["--at", "2026-03-02T12:00:00Z", "--json"]
    done = subprocess.run(command, input=TOKEN, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["data"]["licence_id"] == ID


@pytest.mark.parametrize(
    ("text", "at", "more", "code"),
    [
        (TOKEN, "2026-02-01T00:00:00Z", (), "licence_not_yet_valid"),
        (TOKEN, "2026-06-01T00:00:00Z", (), "licence_expired"),
        (TOKEN, "2026-03-02T00:00:00Z", ("--revocations", "revoked"), "licence_revoked"),
        (TOKEN, "2026-03-02T00:00:00Z", ("--revocations", "licence"), "licence_bad_signature"),
        (TOKEN, "2026-03-02T00:00:00Z", ("--keys", "licence"), "licence_keys_malformed"),
        (TOKEN[:-1], "2026-03-02T00:00:00Z", (), "licence_malformed"),
        (TOKEN.replace(TOKEN[-6:], "AAAAAA"), "2026-03-02T00:00:00Z", (), "licence_bad_signature"),
        ("", "2026-03-02T00:00:00Z", (), "licence_malformed"),
        ("\x1b[31mred", "2026-03-02T00:00:00Z", (), "licence_malformed"),
        ("A" * 200_000, "2026-03-02T00:00:00Z", (), "licence_malformed"),
    ],
)
def test_an_invalid_licence_is_refused_with_the_reason(verify, files, text, at, more, code) -> None:
    (files / "token").write_text(text)
    more = [files / each if not each.startswith("-") else each for each in more]

    people, program = verify(*more, file=files / "token", at=at), verify(*more, "--json", file=files / "token", at=at)

    assert (people.code, people.out) == (ExitCode.FAILED, "")
    assert people.err.startswith(f"error[{code}] ")
    assert "\x1b" not in people.err
    assert (program.code, program.error["code"]) == (ExitCode.FAILED, code)


def test_an_outdated_revocation_list_is_reported(verify, files) -> None:
    done = verify("--revocations", files / "none", at="2026-03-20T00:00:00Z")

    assert done.code == ExitCode.OK
    assert "the revocation list is out of date since 2026-03-08" in done.err


@pytest.mark.parametrize("at", ["tomorrow", "2026-03-01T12:00:00", "0001-01-01T00:00:00+23:00"])
def test_an_invalid_time_is_refused(verify, at: str) -> None:
    assert verify(at=at).code == ExitCode.USAGE


def test_the_error_names_a_missing_file(verify, files) -> None:
    done = verify("--json", file=files / "nowhere")

    assert (done.code, done.error["code"]) == (ExitCode.USAGE, "file_unreadable")
    assert str(files / "nowhere") in done.error["what"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["licence", "show", "../v1/operations"],
        ["licence", "renew", "acme"],
        ["licence", "activate", ID],
        ["licence", "activate", ID, "machine", "--digest", "a" * 64],
        ["licence", "deactivate", ID, "--digest", "mine"],
        ["licence", "issue", "../x"],
        ["licence", "issue", "acme", "--valid-days", "400"],
    ],
)
def test_invalid_arguments_are_refused_before_a_request_is_sent(paybill, tmp_path, arguments) -> None:
    done = paybill(*arguments, "--data-dir", tmp_path)

    assert (done.code, done.out) == (ExitCode.USAGE, "")


def paying(on_stack, customers) -> str:
    """Returns the slug of a tenant that paid, once billing has its entitlements."""
    tenant = customers.sign_up("team")
    customers.pay(tenant["checkout_url"])
    until(lambda: on_stack("licence", "issue", tenant["slug"], "--dry-run").code == ExitCode.OK)
    return str(tenant["slug"])


def test_a_licence_is_issued_activated_renewed_and_revoked(on_stack, customers, real_stack, tmp_path) -> None:
    slug = paying(on_stack, customers)
    issued = on_stack("licence", "issue", slug, "--seats", 1, "--json")
    id_ = issued.data["licence_id"]
    (tmp_path / "licence").write_text(on_stack("licence", "show", id_, "--token").out)
    (tmp_path / "keys.json").write_text(on_stack("licence", "keys").out)
    check = ("licence", "verify", tmp_path / "licence", "--keys", tmp_path / "keys.json")

    assert issued.data["status"] == "in_force"
    assert "paybill licence show" in issued.err
    assert on_stack(*check, "--json").data["seats"] == 1
    assert [row[0] for row in on_stack("licence", "list", "--tenant", slug).rows] == [id_]

    assert on_stack("licence", "activate", id_, "laptop", "--json").data["seats_used"] == 1
    full = on_stack("licence", "activate", id_, "server", "--json")
    assert (full.code, full.error["code"]) == (ExitCode.CONFLICT, "no_seat_left")
    shown = on_stack("licence", "show", id_)
    machine = shown.err.split()[1].rstrip(",")
    assert "laptop" not in shown.err
    assert on_stack("licence", "deactivate", id_, "--digest", machine, "--json").data["seats_used"] == 0

    before = on_stack("licence", "keys", "--all", "--json").data
    rotated = on_stack("licence", "rotate-keys", "--reason", "every year", "--yes", "--json")
    assert [key["state"] for key in rotated.data] == [*["retiring"] * len(before), "active"]
    renewed = on_stack("licence", "renew", id_, "--json").data
    assert (renewed["revision"], renewed["kid"]) == (2, rotated.data[-1]["kid"])
    assert on_stack(*check).code == ExitCode.OK

    unconfirmed = on_stack("licence", "revoke", id_, "--reason", "leaked", "--json")
    assert unconfirmed.error["code"] == "confirmation_needed"
    assert on_stack("licence", "revoke", id_, "--reason", "leaked", "--dry-run", "--json").data["status"] == "revoked"
    revoke = ("licence", "revoke", id_, "--reason", "leaked", "--idempotency-key", f"revoke-{id_}", "--json")
    assert on_stack(*revoke, "--yes").data["status"] == "revoked"
    assert f"the key revoke-{id_} was already executed" in on_stack(*revoke, "--dry-run").err
    none = on_stack("licence", "show", id_, "--token", "--json")
    assert (none.code, none.error["why"]) == (ExitCode.CONFLICT, "leaked")

    def is_revoked() -> bool:
        found = httpx.get(f"{real_stack.url('billing')}/.well-known/license-revocations", trust_env=False)
        (tmp_path / "revoked").write_text(found.text)
        (tmp_path / "keys.json").write_text(on_stack("licence", "keys").out)
        return bool(on_stack(*check, "--revocations", tmp_path / "revoked", "--json").code == ExitCode.FAILED)

    until(is_revoked)
    last = on_stack(*check, "--revocations", tmp_path / "revoked", "--json")
    assert last.error["code"] == "licence_revoked"
