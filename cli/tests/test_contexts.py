"""`paybill context`: which installation a command uses."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from paybill_cli.client import contexts
from paybill_cli.exit_codes import ExitCode

CLUSTER = (
    "--tenant-url", "http://127.0.0.1:9", "--billing-url", "http://127.0.0.1:9", "--provisioner-url",
    "http://127.0.0.1:9", "--nats-url", "nats://127.0.0.1:9", "--nats-user", "auditor",
)  # fmt: skip


def test_the_first_context_is_used_until_another_is_chosen(paybill, tmp_path: Path) -> None:
    paybill("context", "add", "laptop", "--data-dir", tmp_path / "data")
    paybill("context", "add", "cluster", *CLUSTER)
    laptop = paybill("tenant", "list", PAYBILL_API_KEY="x")
    chosen = paybill("context", "use", "cluster", "--json")
    cluster = paybill("tenant", "list", PAYBILL_API_KEY="x")

    assert f"no stack runs on {tmp_path / 'data'}" in laptop.err
    assert chosen.data["current"] is True
    assert "http://127.0.0.1:9" in cluster.err
    assert [row["current"] for row in paybill("context", "list", "--json").data] == [True, False]


def test_an_empty_list_of_contexts_names_the_command_that_adds_one(paybill) -> None:
    done = paybill("context", "list")

    assert done.out == "current\tname\n"
    assert "paybill context add laptop --data-dir .paybill" in done.err


def test_an_address_of_the_command_replaces_the_current_context(paybill, tmp_path: Path) -> None:
    paybill("context", "add", "cluster", *CLUSTER)

    assert f"no stack runs on {tmp_path}" in paybill("tenant", "list", "--data-dir", tmp_path).err
    assert f"no stack runs on {tmp_path}" in paybill("tenant", "list", PAYBILL_DATA_DIR=str(tmp_path)).err
    named = paybill("tenant", "list", "--data-dir", tmp_path, PAYBILL_CONTEXT="cluster", PAYBILL_API_KEY="x")
    assert "http://127.0.0.1:9" in named.err


def test_a_context_holds_the_key_s_file_and_never_the_key(paybill, real_stack, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(real_stack.key)
    paybill("context", "add", "laptop", "--data-dir", real_stack.data_dir, "--api-key-file", key)

    assert paybill("tenant", "list").code == ExitCode.OK
    assert paybill("tenant", "list", PAYBILL_API_KEY="pbk_wrong").code == ExitCode.DENIED
    assert real_stack.key not in contexts.path().read_text()
    assert contexts.path().stat().st_mode & 0o077 == 0


def test_a_replay_uses_the_data_directory_of_the_context(paybill, tmp_path: Path) -> None:
    paybill("context", "add", "laptop", "--data-dir", tmp_path / "data")
    paybill("context", "add", "cluster", *CLUSTER)

    assert f"no stack runs on {tmp_path / 'data'}" in paybill("replay").err
    assert "no data directory" in paybill("replay", "--context", "cluster").err
    assert f"no stack runs on {tmp_path}/other" in paybill("replay", "--data-dir", tmp_path / "other").err


def test_unknown_contexts_and_unreadable_files_are_explained(paybill) -> None:
    unknown = paybill("context", "use", "cloud", "--json")
    empty = paybill("context", "add", "cloud")
    Path(os.environ["XDG_CONFIG_HOME"], "paybill").mkdir()
    contexts.path().write_text(json.dumps({"current": "a", "contexts": {"a": {"password": "x"}}}))
    broken = paybill("tenant", "list", "--json")
    contexts.path().write_text(json.dumps({"current": "a", "contexts": {"a": {"api_key_file": 5}}}))
    wrong = paybill("tenant", "list", "--json")

    assert (unknown.code, unknown.error["code"]) == (ExitCode.NOT_FOUND, "context_not_found")
    assert empty.code == ExitCode.USAGE
    assert (broken.code, broken.error["code"]) == (ExitCode.USAGE, "contexts_unreadable")
    assert (wrong.code, wrong.error["code"]) == (ExitCode.USAGE, "contexts_unreadable")


@pytest.mark.parametrize(
    ("option", "url", "next_"),
    [
        ("--tenant-url", "https://me:hunter2@host/a", "--tenant-url https://host/a --api-key-file FILE"),
        ("--billing-url", "http://hunter2@[::1]:80", "--billing-url 'http://[::1]:80' --api-key-file FILE"),
        ("--nats-url", "nats://me:hunter2@host:4222", "--nats-url nats://host:4222 --nats-user NAME --nats-password-"),
        (
            "--nats-url",
            "hunter2://hunter2@host",
            "--nats-url hunter2://host --nats-user NAME --nats-password-file FILE",
        ),
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(paybill, option: str, url: str, next_: str) -> None:
    refused = paybill("context", "add", "cluster", option, url, "--json")

    assert (refused.code, contexts.load()) == (ExitCode.USAGE, contexts.Contexts())
    assert refused.error["next"].startswith(f"paybill context add cluster {next_}")
    assert "hunter2@" not in refused.err
    assert ":hunter2" not in refused.err


@pytest.mark.parametrize(
    ("option", "url", "allowed"),
    [
        ("--tenant-url", "javascript:alert(1)", "http:// or https://"),
        ("--billing-url", "file:///etc/passwd", "http:// or https://"),
        ("--provisioner-url", "nats://host:4222", "http:// or https://"),
        ("--tenant-url", "https:///path", "http:// or https://"),
        ("--tenant-url", "host:8080", "http:// or https://"),
        ("--nats-url", "http://host:4222", "nats:// or tls:// or ws:// or wss://"),
    ],
)
def test_addresses_of_other_protocols_are_refused_with_the_allowed_ones(
    paybill, option: str, url: str, allowed: str
) -> None:
    refused = paybill("context", "add", "cluster", option, url)

    assert (refused.code, contexts.load()) == (ExitCode.USAGE, contexts.Contexts())
    assert f"the URL of {option} does not begin with {allowed} and a host" in refused.err


def test_a_port_that_is_no_number_is_explained(paybill) -> None:
    refused = paybill("context", "add", "cluster", "--tenant-url", "http://host:port")

    assert refused.code == ExitCode.USAGE
    assert "the value of --tenant-url is not a URL" in refused.err


def test_a_key_that_other_users_can_read_is_a_warning(paybill, tmp_path: Path) -> None:
    key = tmp_path / "my key"
    key.write_text("pbk_x")
    key.chmod(0o640)
    arguments = ("context", "add", "laptop", "--data-dir", tmp_path, "--api-key-file", key)

    readable = paybill(*arguments)
    subprocess.run(shlex.split(readable.err.partition("next: ")[2]), check=True)

    assert readable.code == ExitCode.OK
    assert f"warning: other users can access {key}" in readable.err
    assert paybill(*arguments).err == ""


def test_the_next_step_of_an_unreadable_file_can_be_run(paybill, tmp_path: Path) -> None:
    contexts.path().parent.mkdir()
    contexts.path().write_text("no JSON")
    step = paybill("context", "list", "--json").error["next"]
    backup, add = step.split(", then: ")

    subprocess.run(shlex.split(backup), check=True)
    added = paybill(*shlex.split(add)[1:])

    assert added.code == ExitCode.OK


def test_a_name_that_a_shell_would_change_is_refused(paybill) -> None:
    refused = paybill("context", "add", "my laptop!", "--data-dir", ".")

    assert (refused.code, contexts.load()) == (ExitCode.USAGE, contexts.Contexts())
    assert "'my laptop!' is not a name" in refused.err


def test_the_names_of_contexts_are_completed(paybill, tmp_path: Path) -> None:
    paybill("context", "add", "laptop", "--data-dir", tmp_path)
    paybill("context", "add", "cluster", *CLUSTER)
    shell = {"_PAYBILL_COMPLETE": "complete_bash", "COMP_WORDS": "paybill context use l", "COMP_CWORD": "3"}
    script = Path(sys.executable).parent / "paybill"
    done = subprocess.run([script], env=os.environ | shell, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["laptop"]


def test_a_removed_context_is_current_no_more(paybill, tmp_path: Path) -> None:
    paybill("context", "add", "laptop", "--data-dir", tmp_path)

    assert paybill("context", "remove", "laptop").code == ExitCode.OK
    assert paybill("context", "list", "--json").data == []
    assert contexts.load() == contexts.Contexts()
