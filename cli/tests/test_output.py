"""Tests of the output: data on stdout, messages on stderr, nothing shortened, escapes only on terminals."""

import json
import os
import pty
import select
import subprocess
import sys

import pytest
from paybill_cli.errors import CliError
from paybill_cli.output import Output

HOSTILE = "a\x1b[31mred\x9bx\ttab\nline\r\u2028end"
LONG = "x" * 500
ROWS = [{"name": HOSTILE, "about": LONG, "count": 3, "none": None}, {"name": "é", "about": "b", "count": {"k": [1]}}]
COLUMNS = ("name", "about", "count", "none")


def on_a_terminal(code: str, answer: bytes = b"", **environment: str) -> str:
    """Returns the output of Python on a terminal of 20 columns."""
    leader, follower = pty.openpty()
    variables = {"PATH": os.environ["PATH"], "COLUMNS": "20", "TERM": "xterm-256color", "PYTHONUTF8": "1"} | environment
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=follower, stdout=follower, stderr=follower, env=variables
    ):
        os.close(follower)
        shown = b""
        if answer:
            os.write(leader, answer)
        while select.select([leader], [], [], 10)[0]:
            try:
                shown += os.read(leader, 65536)
            except OSError:
                break
    os.close(leader)
    return shown.decode()


def table(**environment: str) -> str:
    return on_a_terminal(
        f"from paybill_cli.output import Output\nOutput().rows('k', {ROWS!r}, {COLUMNS!r})", **environment
    )


def test_a_list_in_a_pipe_is_a_header_and_one_complete_row_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    Output().rows("kind", ROWS, COLUMNS)

    lines = capsys.readouterr().out.split("\n")
    assert lines == [
        "name\tabout\tcount\tnone",
        f"a\\x1b[31mred\\x9bx\\x09tab\\x0aline\\x0d\\x2028end\t{LONG}\t3\t-",
        'é\tb\t{"k": [1]}\t-',
        "",
    ]


def test_a_record_in_a_pipe_is_one_field_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    Output().record("kind", {"name": HOSTILE, "none": None, "list": [1]}, ("name", "none"))

    assert capsys.readouterr().out == "name: a\\x1b[31mred\\x9bx\\x09tab\\x0aline\\x0d\\x2028end\nnone: -\n"


def test_json_is_one_versioned_envelope_with_all_fields(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(json=True)
    out.rows("tenant.list", ROWS, ("name",))
    out.record("tenant", ROWS[0], ("name",))
    out.line("event", {"name": HOSTILE}, "for people")
    out.document("schema", {"a": 1})
    out.info("message")

    printed = capsys.readouterr()
    envelopes = [json.loads(line) for line in printed.out.splitlines()]
    assert [envelope["version"] for envelope in envelopes] == [1, 1, 1, 1]
    assert [envelope["kind"] for envelope in envelopes] == ["tenant.list", "tenant", "event", "schema"]
    assert envelopes[0]["data"] == ROWS
    assert envelopes[2]["data"] == {"name": HOSTILE}
    assert "\x1b" not in printed.out
    assert "\x9b" not in printed.out
    assert printed.err == "message\n"


def test_messages_and_errors_contain_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.info(HOSTILE)
    out.error(CliError("code", HOSTILE, why=HOSTILE, next="do"))
    out.line("event", {}, f"a\t{HOSTILE}")

    printed = capsys.readouterr()
    assert not {"\x1b", "\x9b", "\r"} & set(printed.out + printed.err)
    assert len(printed.out.splitlines()) == 1


def test_an_error_has_code_message_reason_and_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    error = CliError("slug_taken", "it is taken", why="somebody has it", next="choose another", trace_id="4bf9")

    Output().error(error)
    Output(json=True).error(error)

    people, programs = capsys.readouterr().err.split("\n{")
    assert people == ("error[slug_taken] it is taken\n  why   somebody has it\n  next  choose another\n  trace 4bf9")
    assert json.loads("{" + programs)["data"] == error.data()


def test_a_table_on_a_terminal_is_coloured_and_complete() -> None:
    shown = table()

    assert "\x1b[1m" in shown
    assert shown.count("x") >= 500
    assert "…" not in shown
    assert "\x1b[31m" not in shown


@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": "dumb", "FORCE_COLOR": "1"}], ids=str
)
def test_a_terminal_without_colour_gets_no_escapes(environment: dict[str, str]) -> None:
    assert "\x1b" not in table(**environment)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_help_progress_and_errors_have_no_escapes_without_colour(environment: dict[str, str]) -> None:
    shown = on_a_terminal(
        "from paybill_cli.main import main\nmain(['--help'])\nmain(['tenant', 'list'])\nmain(['tenat'])\n"
        "from paybill_cli.output import Output\n"
        "with Output().progress('waiting') as p: p.update('still')",
        **environment,
    )

    assert "Usage" in shown
    assert "still" in shown
    assert "\x1b" not in shown


def test_colour_cannot_be_forced_into_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paybill_cli", "version"],
        capture_output=True,
        check=True,
        env=os.environ | {"FORCE_COLOR": "1", "COLUMNS": "10", "CLICOLOR_FORCE": "1"},
    )

    assert b"\x1b" not in done.stdout + done.stderr


def test_progress_is_a_spinner_on_a_terminal_and_lines_in_a_pipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = "from paybill_cli.output import Output\nwith Output().progress('one') as p: p.update('two')"
    shown = on_a_terminal(code)
    with Output().progress("one") as progress:
        progress.update("one")
        progress.update("two")

    assert "\x1b[" in shown
    assert capsys.readouterr() == ("", "one\ntwo\n")


@pytest.mark.parametrize(("answer", "confirmed"), [(b"y\n", True), (b"YES\n", True), (b"n\n", False), (b"\n", False)])
def test_a_terminal_gets_a_confirmation_question(answer: bytes, confirmed: bool) -> None:
    code = (
        "from paybill_cli.output import Output\nfrom paybill_cli.errors import CliError\n"
        "try:\n Output().confirm('Sure?', yes=False)\n print('confirmed')\nexcept CliError as e: print(e.code)"
    )

    shown = on_a_terminal(code, answer)

    assert "Sure? [y/N]" in shown
    assert ("confirmed" in shown.split(), "not_confirmed" in shown) == (confirmed, not confirmed)


def test_output_that_the_terminal_cannot_encode_is_escaped() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paybill_cli", "tenant", "show", "café"],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )

    assert done.returncode == 2
    assert b"caf\\xe9" in done.stderr
