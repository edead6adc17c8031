"""Tests of Ctrl-C while a command starts: it ends without a traceback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from paybill_cli.exit_codes import ExitCode

SCRIPT = str(Path(sys.executable).with_name("paybill"))


def started(arguments: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Starts the command; returns when the entry point imports signal: before, Python itself prints a traceback."""
    command = [sys.executable, "-X", "importtime", SCRIPT, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    assert any(line.split()[-1] == "signal" for line in iter(process.stderr.readline, ""))
    return process


@pytest.mark.parametrize(
    ("arguments", "delays_ms"),
    [(["--help"], (0, 50, 100, 150, 200)), (["doctor"], (0, 20, 50, 100, 200, 300, 500))],
    ids=["help", "doctor"],
)
def test_ctrl_c_ends_a_starting_command_without_a_traceback(
    tmp_path: Path, arguments: list[str], delays_ms: tuple[int, ...]
) -> None:
    environment = os.environ | {"PAYBILL_DATA_DIR": str(tmp_path), "PAYBILL_API_KEY": "key"}
    for delay_ms in delays_ms:
        with started(arguments, environment) as process:
            time.sleep(delay_ms / 1000)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate()

        assert "Traceback" not in errors
        assert process.returncode in {ExitCode.INTERRUPTED, ExitCode.OK, ExitCode.UNREACHABLE}, delay_ms


@pytest.mark.e2e
@pytest.mark.parametrize("command", ["bench", "stripe-fake"])
def test_ctrl_c_ends_a_starting_command_with_a_process_of_its_own(tmp_path: Path, command: str) -> None:
    key = tmp_path / "key"
    key.write_text("key")
    options = {"bench": ["pipeline"], "stripe-fake": ["serve", "--port", "0", "--api-key-file", str(key)]}
    for delay_ms in range(100, 1100, 100):
        with started([command, *options[command]], os.environ) as process:
            time.sleep(delay_ms / 1000)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate()

        assert "Traceback" not in errors
        assert process.returncode == ExitCode.INTERRUPTED, delay_ms


def test_ctrl_c_ends_the_stripe_fake_without_a_traceback(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("key")
    with started(["stripe-fake", "serve", "--port", "0", "--api-key-file", str(key)], os.environ) as process:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()

    assert "Traceback" not in errors
    assert process.returncode == ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("paybill_bench.__main__", ["pipeline"]),
        ("paybill_stripe_fake.__main__", ["serve", "--port", "0", "--api-key-file", "key"]),
        ("paybill_cli.main", ["doctor", "--nats-url", "nats://127.0.0.1:9", "--data-dir", "."]),
    ],
    ids=["bench", "stripe-fake", "cli"],
)
def test_ctrl_c_while_the_event_loop_is_made_leaves_no_half_made_loop(
    tmp_path: Path, module: str, arguments: list[str]
) -> None:
    (tmp_path / "key").write_text("key")
    code = f"""
import os, signal, socket, sys
from {module} import main
pair = socket.socketpair
def interrupted_pair(*arguments):
    socket.socketpair = pair
    print("interrupted", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    return pair(*arguments)
socket.socketpair = interrupted_pair
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT}})
sys.exit(main({arguments!r}))
"""
    outcome = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )

    assert outcome.stdout == "interrupted\n"
    assert "Traceback" not in outcome.stderr
    assert outcome.returncode == ExitCode.INTERRUPTED


def test_a_signal_that_the_parent_ignores_stays_ignored() -> None:
    """A shell without job control starts background jobs with SIGINT ignored."""
    background = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    command = [*background, sys.executable, "-X", "importtime", SCRIPT, "--help"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        started = any(line.rstrip().endswith("paybill_cli.entry") for line in lines)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.stderr.read()

    assert started
    assert process.returncode == ExitCode.OK
