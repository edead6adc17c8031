"""The command tree: complete, quick, described in one place, and the same manners everywhere."""

import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest
from paybill_cli.exit_codes import ExitCode
from paybill_cli.tree import TREE, Branch, Leaf

PASSED_ON = ("stripe-fake",)
CHANGES = {
    ("tenant", "create"),
    ("tenant", "suspend"),
    ("tenant", "resume"),
    ("tenant", "offboard"),
    ("provider", "backfill"),
    ("plans", "publish"),
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
    ("events", "publish"),
    ("events", "redrive"),
    ("events", "skip"),
}
"""Commands that change something of a running stack."""
HEAVY = {"asyncio", "fastapi", "httpx", "nats", "opentelemetry", "pydantic", "rich", "sqlalchemy"}


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
def test_a_command_is_described_in_its_function_and_summed_up_by_the_first_line(path: tuple[str, ...]) -> None:
    text = inspect.getdoc(function(COMMANDS[path])) or ""

    assert text.splitlines()[0] == COMMANDS[path].summary
    assert f"paybill {' '.join(path)}" in text, "its help shows an example"


@every_command_of_ours
def test_the_help_of_a_command_is_whole_and_tells_of_json(paybill, path: tuple[str, ...]) -> None:
    done = paybill(*path, "--help")

    assert done.code == ExitCode.OK
    assert OWN[path].summary in done.out
    assert "--json" in done.out
    assert "..." not in done.out


@pytest.mark.parametrize("path", sorted(CHANGES), ids=" ".join)
def test_a_command_that_changes_something_can_be_tried_dry(path: tuple[str, ...]) -> None:
    assert "dry_run" in inspect.signature(function(COMMANDS[path])).parameters


@pytest.mark.parametrize("path", [(), ("tenant",), ("events",)], ids=" ".join)
def test_a_group_without_a_command_shows_its_help_as_wrong_use(paybill, path: tuple[str, ...]) -> None:
    done = paybill(*path)

    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert "Usage: paybill" in done.err


def test_the_help_lists_every_command_whole_and_every_exit_code(paybill) -> None:
    done = paybill("--help")
    text = " ".join(done.out.split())

    assert [node.summary for node in TREE.commands.values() if node.summary not in text] == []
    assert [code for code in ExitCode if f"{code.value} {code.meaning}" not in text] == []
    assert "..." not in done.out.replace("[ARGS]...", "")


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom paybill_cli.main import main\nmain(['--help'])\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    command = [str(Path(sys.executable).with_name("paybill")), "--help"]
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - began)

    assert not HEAVY & set(done.stderr.split())
    assert min(times) <= 0.4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tenat"], "Did you mean 'tenant'"),
        (["tenant", "lst"], "Did you mean 'list'"),
        (["tenant", "list", "--jsn"], "--json"),
        (["tenant", "show"], "TENANT"),
        (["tenant", "suspend", "acme", "--reason", "x", "--mode", "half"], "read_only"),
        (["version", "extra"], "extra"),
        (["events", "tail", "--from", "zero"], "--from"),
        (["events", "tail", "--from", "0"], "--from"),
        (["tenant", "list", "--tenant-url", "http://[::bad", "--api-key-file", __file__], "is no URL"),
        (["tenant", "show", "../v1/operations"], "neither a slug nor an id"),
    ],
)
def test_wrong_use_is_said_in_words_with_where_to_look(paybill, arguments: list[str], says: str) -> None:
    people, programs = paybill(*arguments), paybill(*arguments, "--json")

    assert (people.code, people.out) == (ExitCode.USAGE, "")
    assert people.err.startswith("error[usage] ")
    assert says in people.err
    assert "\n  next  " in people.err
    assert (programs.code, programs.error["code"]) == (ExitCode.USAGE, "usage")


def test_a_fault_of_ours_is_one_line_and_a_traceback_only_on_request(paybill, tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps({"version": 1, "nats": "no object"}))
    arguments = ("events", "tail", "--data-dir", tmp_path)

    short = paybill(*arguments)
    long = paybill(*arguments, PAYBILL_DEBUG="1")

    assert (short.code, long.code) == (ExitCode.FAILED, ExitCode.FAILED)
    assert short.err.startswith("error[internal_error] ")
    assert "Traceback" not in short.err
    assert "Traceback" in long.err


def test_a_reader_who_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -m paybill_cli events schema | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (ExitCode.OK, "")


def test_completion_knows_the_commands() -> None:
    script = {"_PAYBILL_COMPLETE": "complete_bash", "COMP_WORDS": "paybill tenant s", "COMP_CWORD": "2"}
    command = [str(Path(sys.executable).with_name("paybill"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | script)

    assert done.stdout.split() == ["show", "suspend"]


def test_arguments_of_the_stand_in_for_stripe_are_passed_on() -> None:
    command = [sys.executable, "-m", "paybill_cli", "stripe-fake", "serve", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "--webhook-secret-file" in done.stdout


def test_the_version_is_told(paybill) -> None:
    assert set(paybill("version", "--json").data) == {"paybill", "python"}
