"""Tests of the stack options: addresses, API key and NATS access."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from paybill_cli.client.stack import NatsAccess, Stack
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode

WRITTEN = {
    "version": 1,
    "services": {"tenant": {"url": "http://127.0.0.1:1/"}},
    "nats": {"url": "nats://127.0.0.1:2"},
}


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """Returns a data directory with the files of a running `paybill up`."""
    monkeypatch.delenv("PAYBILL_API_KEY", raising=False)
    (tmp_path / "stack.json").write_text(json.dumps(WRITTEN))
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "nats-operator").write_text("secret\n")
    return Stack(data_dir=tmp_path)


def test_addresses_come_from_the_stack_file(stack: Stack) -> None:
    assert stack.url("tenant") == "http://127.0.0.1:1"
    assert stack.nats() == NatsAccess("nats://127.0.0.1:2", "operator", "secret")


def test_an_address_option_has_precedence_and_needs_no_stack(tmp_path: Path) -> None:
    stack = Stack(data_dir=tmp_path / "none", tenant_url="https://tenant.example/")

    assert stack.url("tenant") == "https://tenant.example"


def test_options_select_another_nats_user(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("theirs")
    other = replace(stack, nats_user="auditor", nats_password_file=tmp_path / "other")

    assert other.nats() == NatsAccess("nats://127.0.0.1:2", "auditor", "theirs")


def test_the_key_comes_from_a_file_or_a_variable(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYBILL_API_KEY", " pbk_from_variable\n")
    (tmp_path / "key").write_text("pbk_from_file\n")

    assert stack.api_key() == "pbk_from_variable"
    assert Stack(api_key_file=tmp_path / "key").api_key() == "pbk_from_file"


@pytest.mark.parametrize(
    "written",
    [None, "", "{", "[]", "{}", json.dumps({**WRITTEN, "version": 2}), json.dumps({"version": 1, "services": []})],
    ids=["missing", "empty", "broken", "list", "nothing", "newer", "odd"],
)
def test_a_missing_stack_is_unreachable_and_the_error_names_the_start_command(
    stack: Stack, tmp_path: Path, written: str | None
) -> None:
    file = tmp_path / "stack.json"
    file.unlink()
    if written is not None:
        file.write_text(written)

    with pytest.raises(CliError) as error:
        stack.url("billing")

    assert (error.value.code, error.value.exit_code) == ("stack_not_running", ExitCode.UNREACHABLE)
    assert "paybill up" in error.value.next


def test_an_unreadable_secret_is_named_and_not_printed(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "credentials" / "nats-crm").write_bytes(b"\xff\xfe")
    (tmp_path / "credentials" / "nats-empty").write_text("\n")

    for user in ("crm", "empty", "nobody"):
        with pytest.raises(CliError) as error:
            stack.nats(user)
        assert error.value.code == "secret_unreadable"
        assert f"nats-{user}" in error.value.message


def test_without_a_key_the_error_names_the_variable(stack: Stack) -> None:
    with pytest.raises(CliError) as error:
        stack.api_key()

    assert (error.value.code, error.value.exit_code) == ("no_key", ExitCode.DENIED)
    assert "PAYBILL_API_KEY" in error.value.next
