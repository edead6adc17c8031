"""Tests of the command tree: help, completion, imports, and common behaviour of all commands."""

import inspect
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest
from paybill_cli.command import command_of, load
from paybill_cli.exit_codes import ExitCode
from paybill_cli.tree import TREE, Branch, Leaf

PASSED_ON = ("stripe-fake",)
CHANGES = {
    ("webhook", "dismiss"),
    ("tenant", "create"),
    ("tenant", "suspend"),
    ("tenant", "resume"),
    ("tenant", "hold"),
    ("tenant", "release"),
    ("tenant", "offboard"),
    ("tenant", "purge"),
    ("tenant", "quarantine"),
    ("tenant", "end-quarantine"),
    ("tenant", "retry"),
    ("provider", "backfill"),
    ("plans", "publish"),
    ("prices", "publish"),
    ("policy", "publish"),
    ("environment", "plan"),
    ("environment", "apply"),
    ("environment", "retry"),
    ("environment", "credentials"),
    ("approval", "approve"),
    ("approval", "reject"),
    ("plans", "move"),
    ("plans", "pause-move"),
    ("plans", "resume-move"),
    ("subscription", "change"),
    ("subscription", "cancel"),
    ("subscription", "reactivate"),
    ("subscription", "pause"),
    ("subscription", "resume"),
    ("subscription", "discard"),
    ("entitlement", "override"),
    ("entitlement", "grant"),
    ("entitlement", "withdraw"),
    ("manual", "offer"),
    ("manual", "accept"),
    ("manual", "paid"),
    ("manual", "void"),
    ("licence", "issue"),
    ("licence", "renew"),
    ("licence", "revoke"),
    ("licence", "activate"),
    ("licence", "deactivate"),
    ("licence", "rotate-keys"),
    ("incident", "assign"),
    ("incident", "close"),
    ("jobs", "retry"),
    ("jobs", "cancel"),
    ("events", "publish"),
    ("events", "redrive"),
    ("events", "skip"),
    ("subscriber", "create"),
    ("agent", "publish"),
    ("agent", "new"),
    ("agent", "end"),
    ("agent", "freeze"),
    ("agent", "thaw"),
    ("key", "create"),
    ("key", "revoke"),
    ("key", "rotate"),
    ("signing-key", "rotate"),
    ("signing-key", "withdraw"),
}
"""Commands that change a running stack."""
CLIENTS = {"asyncpg", "httpx", "nats", "pydantic"}
HEAVY = CLIENTS | {"asyncio", "fastapi", "opentelemetry", "rich", "sqlalchemy"}
SCRIPT = str(Path(sys.executable).with_name("paybill"))


def leaves(branch: Branch = TREE, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Leaf]]:
    for name, node in branch.commands.items():
        if isinstance(node, Branch):
            yield from leaves(node, (*path, name))
        else:
            yield (*path, name), node


COMMANDS = dict(leaves())
OWN = {path: leaf for path, leaf in COMMANDS.items() if path[0] not in PASSED_ON}


every_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
every_command_of_ours = pytest.mark.parametrize("path", OWN, ids=" ".join)


def function(leaf: Leaf) -> FunctionType:
    module, _, name = leaf.target.partition(":")
    found = getattr(import_module(module), name)
    assert isinstance(found, FunctionType)
    return found


@every_command
def test_the_summary_of_a_command_is_the_first_line_of_its_docstring(path: tuple[str, ...]) -> None:
    text = inspect.getdoc(function(COMMANDS[path])) or ""

    assert text.splitlines()[0] == COMMANDS[path].summary
    assert f"paybill {' '.join(path)}" in text, "its help shows an example"


@every_command_of_ours
def test_the_help_of_a_command_is_complete_and_describes_json(paybill, path: tuple[str, ...]) -> None:
    done = paybill(*path, "--help")

    assert done.code == ExitCode.OK
    assert OWN[path].summary in done.out
    assert "--json" in done.out
    assert "..." not in done.out


@every_command_of_ours
def test_every_change_with_a_preview_accepts_yes(path: tuple[str, ...]) -> None:
    options = {name for each in command_of(function(OWN[path]), path[-1]).params for name in each.opts}

    # The dry run of a reconciliation is a run of its own, and previews no change.
    is_change = {"--idempotency-key", "--dry-run"} <= options and path != ("provider", "reconcile")
    assert not is_change or {"--yes", "-y"} <= options


@every_command_of_ours
def test_the_arguments_of_a_command_are_upper_case_without_brackets_of_their_own(path: tuple[str, ...]) -> None:
    arguments = [
        each for each in command_of(function(OWN[path]), path[-1]).params if each.param_type_name == "argument"
    ]

    assert [each.metavar for each in arguments if not each.metavar or not each.metavar.isupper()] == []
    assert [each.metavar for each in arguments if "[" in each.metavar] == []


@pytest.mark.parametrize("path", sorted(CHANGES), ids=" ".join)
def test_a_command_that_changes_the_stack_has_a_dry_run(path: tuple[str, ...]) -> None:
    parameters = inspect.signature(function(COMMANDS[path])).parameters

    assert any(each.name == "dry_run" or hasattr(each.annotation, "dry_run") for each in parameters.values())


@pytest.mark.parametrize("path", [(), ("tenant",), ("events",)], ids=" ".join)
def test_a_group_without_a_command_prints_its_help_and_fails(paybill, path: tuple[str, ...]) -> None:
    done = paybill(*path)

    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert "Usage: paybill" in done.err


def test_the_help_lists_every_exit_code(paybill) -> None:
    done = paybill("--help")
    text = " ".join(done.out.split())

    assert [code for code in ExitCode if f"{code.value} {code.meaning}" not in text] == []
    assert "..." not in done.out.replace("[ARGS]...", "")


def imported_by(code: str, **environment: str) -> set[str]:
    """Returns the top-level packages that a process has imported after this code."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    command = [sys.executable, "-c", f"import atexit\natexit.register(lambda: exec({report!r}))\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert "Traceback" not in done.stderr
    return set(done.stderr.splitlines()[-1].split())


def _children_s() -> float:
    """Returns the processor time of all ended child processes, which depends less on other load than the time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_fast_and_imports_no_client() -> None:
    times = []
    for _ in range(5):
        before = _children_s()
        subprocess.run([SCRIPT, "--help"], capture_output=True, check=True)
        times.append(_children_s() - before)

    assert not HEAVY & imported_by("from paybill_cli.main import main\nmain(['--help'])")
    assert min(times) <= 0.4


def test_the_help_of_no_command_imports_a_client() -> None:
    helps = [[*path, "--help"] for path in OWN]

    imported = imported_by(f"from paybill_cli.main import main\nfor each in {helps!r}: main(each)")

    assert not CLIENTS & imported


@pytest.mark.parametrize("words", ["paybill t", "paybill tenant s", "paybill events tail --t"])
def test_completion_imports_no_client(words: str) -> None:
    count = str(len(words.split()) - 1)
    environment = {"_PAYBILL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}

    assert not CLIENTS & imported_by("from paybill_cli.entry import run\nrun()", **environment)


def test_a_command_imports_its_client_at_the_first_request(tmp_path: Path) -> None:
    code = "from paybill_cli.main import main\nmain(['tenant', 'list', '--tenant-url', 'http://127.0.0.1:9'{}])"

    assert "httpx" not in imported_by(code.format(""), PAYBILL_API_KEY="")
    assert "httpx" in imported_by(code.format(""), PAYBILL_API_KEY="key")
    assert "httpx" not in imported_by(code.format(", '--limit', '0'"), PAYBILL_API_KEY="key")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["tenat"], "Did you mean 'tenant'"),
        (["tenant", "lst"], "Did you mean 'list'"),
        (["tenant", "list", "--jsn"], "--json"),
        (["tenant", "show"], "TENANT"),
        (["tenant", "suspend", "acme", "--reason", "x", "--mode", "half"], "read_only"),
        (["version", "extra"], "extra"),
        (["jobs", "list", "--state", "half"], "'--state': 'half' is not one of"),
        (["events", "tail", "--from", "zero"], "--from"),
        (["events", "tail", "--from", "0"], "--from"),
        (["tenant", "list", "--tenant-url", "http://[::bad", "--api-key-file", __file__], "is not a URL"),
        (["tenant", "show", "../v1/operations"], "neither a slug nor an id"),
    ],
)
def test_invalid_arguments_are_an_error_with_a_next_step(paybill, arguments: list[str], text: str) -> None:
    people, programs = paybill(*arguments), paybill(*arguments, "--json")

    assert (people.code, people.out) == (ExitCode.USAGE, "")
    assert people.err.startswith("error[usage] ")
    assert text in people.err
    assert "\n  next  " in people.err
    assert (programs.code, programs.error["code"]) == (ExitCode.USAGE, "usage")


def test_an_error_of_an_option_names_the_help_of_its_command(paybill) -> None:
    assert "\n  next  paybill tenant list --help\n" in paybill("tenant", "list", "--customer").err


def test_a_bug_is_one_line_and_a_traceback_only_on_request(paybill, tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps({"version": 1, "nats": "not an object"}))
    arguments = ("events", "tail", "--data-dir", tmp_path)

    short = paybill(*arguments)
    long = paybill(*arguments, PAYBILL_DEBUG="1")

    assert (short.code, long.code) == (ExitCode.FAILED, ExitCode.FAILED)
    assert short.err.startswith("error[internal_error] ")
    assert "Traceback" not in short.err
    assert "Traceback" in long.err


def test_an_unknown_setting_is_refused_with_the_nearest_name(paybill) -> None:
    refused = paybill("tenant", "list", PAYBILL_DATA_DIRS="x")

    assert refused.code == ExitCode.USAGE
    assert refused.err.splitlines() == [
        "error[unknown_setting] PAYBILL_DATA_DIRS is no setting; did you mean PAYBILL_DATA_DIR?",
        "  next  unset PAYBILL_DATA_DIRS",
    ]


def test_a_closed_pipe_is_not_an_error() -> None:
    command = f"{sys.executable} -m paybill_cli events schema | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (ExitCode.OK, "")


def test_completion_lists_the_commands() -> None:
    script = {"_PAYBILL_COMPLETE": "complete_bash", "COMP_WORDS": "paybill tenant s", "COMP_CWORD": "2"}
    done = subprocess.run([SCRIPT], capture_output=True, text=True, check=False, env=os.environ | script)

    assert done.stdout.split() == ["show", "suspend"]


def test_arguments_of_the_stripe_fake_are_passed_on() -> None:
    command = [sys.executable, "-m", "paybill_cli", "stripe-fake", "serve", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "--webhook-secret-file" in done.stdout
    assert done.stdout.startswith("usage: paybill stripe-fake serve")


def test_the_version_is_printed(paybill) -> None:
    assert set(paybill("version", "--json").data) == {"paybill", "python"}


def test_every_tenant_plan_region_and_subscription_is_completed() -> None:
    names = {"tenant", "plan", "region", "subscription", "from_", "to"}
    found = {
        (*words, parameter.name): parameter._custom_shell_complete is not None
        for words, leaf in leaves()
        for parameter in load(leaf, words[-1]).params
        if parameter.name in names
    }

    assert len(found) > 30
    assert [name for name, is_completed in found.items() if not is_completed] == []
