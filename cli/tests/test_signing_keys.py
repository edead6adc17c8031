"""`paybill signing-key`: keys are listed, replaced while the stack runs, and withdrawn."""

import json

import pytest
from paybill_cli.exit_codes import ExitCode
from test_doctor_of_servers import until

TAIL = ("events", "tail", "--since", "1h", "--no-follow")
ROTATE = ("signing-key", "rotate", "billing")


def keys(paybill, environment, service="billing"):
    rows = paybill("signing-key", "list", "--json", **environment).data
    return [row for row in rows if row["service"] == service]


@pytest.mark.e2e
def test_a_key_is_replaced_and_withdrawn_while_the_stack_runs(run_stack, paybill, tmp_path) -> None:
    with run_stack(tmp_path) as stack:
        environment = stack.environment
        until(lambda: keys(paybill, environment))
        [first] = keys(paybill, environment)
        preview = paybill(*ROTATE, "--dry-run", "--json", **environment).data
        refused = paybill(
            "signing-key", "withdraw", "billing", "--key", first["key_id"], "--reason", "x", "--json", **environment
        )

        rotated = paybill(*ROTATE, "--yes", "--json", **environment).data
        until(lambda: len(keys(paybill, environment)) == 2)
        old, new = keys(paybill, environment)
        withdraw = (
            "signing-key",
            "withdraw",
            "billing",
            "--key",
            first["key_id"],
            "--reason",
            "its disk is lost",
            "--yes",
        )
        withdrawn = paybill(*withdraw, "--json", **environment)
        until(lambda: keys(paybill, environment)[0]["until"])
        until(lambda: paybill("doctor", **environment).code == ExitCode.OK)
        request = ("tenant", "create", "acme", "--plan", "starter", "--region", "eu-central")
        created = paybill(*request, "--email", "ops@acme.example", **environment)
        until(lambda: "account opened at stripe" in paybill(*TAIL, **environment).out)

    assert preview == {"service": "billing", "replaces": first["key_id"], "number": 2}
    assert (refused.code, refused.error["code"]) == (ExitCode.CONFLICT, "signing_key_in_use")
    assert rotated["key_id"] == new["key_id"] != old["key_id"] == first["key_id"]
    assert (old["until"], new["number"], new["until"]) == (None, 2, None)
    assert withdrawn.code == created.code == ExitCode.OK, (withdrawn.err, created.err)
    verified = paybill("replay", "--verify", "--data-dir", tmp_path)
    assert verified.code == ExitCode.OK, verified.out


def test_a_folder_without_keys_is_named(paybill, tmp_path) -> None:
    refused = paybill(*ROTATE, "--yes", "--json", "--data-dir", tmp_path)

    assert (refused.code, refused.error["code"]) == (ExitCode.NOT_FOUND, "signing_key_unreadable")
    assert "--identities" in refused.error["next"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("service", ["stripe", "../billing"])
def test_an_unknown_service_is_refused(paybill, tmp_path, service) -> None:
    refused = paybill("signing-key", "rotate", service, "--yes", "--json", "--data-dir", tmp_path)

    assert refused.code == ExitCode.USAGE


def test_another_root_key_is_refused_before_anything_changes(paybill, tmp_path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from paybill_stack.layout import Layout
    from paybill_stack.prepare import prepare

    prepare(Layout(tmp_path))
    other = tmp_path / "other.key"
    other.write_bytes(Ed25519PrivateKey.generate().private_bytes_raw())
    before = (tmp_path / "identities" / "billing.signing-key").read_bytes()

    refused = paybill(*ROTATE, "--yes", "--json", "--data-dir", tmp_path, "--root-key", other)

    assert (refused.code, refused.error["code"]) == (ExitCode.CONFLICT, "root_key_mismatch")
    assert (tmp_path / "identities" / "billing.signing-key").read_bytes() == before


def test_a_stopped_stack_gets_its_new_key_at_the_next_start(paybill, tmp_path) -> None:
    from paybill_stack.layout import Layout
    from paybill_stack.prepare import prepare

    prepare(Layout(tmp_path))
    file = tmp_path / "identities" / "billing.signing-key"
    while not (before := json.loads(file.read_bytes()))["key_id"].startswith("-"):  # one of 64 does
        file.unlink()
        prepare(Layout(tmp_path))

    done = paybill(*ROTATE, "--yes", "--data-dir", tmp_path)
    withdraw = ("signing-key", "withdraw", "billing", "--key", before["key_id"], "--reason", "lost", "--yes")
    withdrawn = paybill(*withdraw, "--data-dir", tmp_path)
    after = json.loads(file.read_bytes())

    assert done.code == withdrawn.code == ExitCode.OK
    assert "restart every replica of billing" in done.err
    assert (after["number"], after["replaces"]) == (2, before["key_id"])
    assert [each["key_id"] for each in after["withdrawals"]] == [before["key_id"]]
    assert file.stat().st_mode & 0o777 == 0o600
