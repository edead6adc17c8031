"""The example of an agent: `paybill up --example` prepares it, and every command and program of its README runs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "examples" / "support-agent" / "README.md"
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def script() -> str:
    """Returns the commands and programs of the README as one shell script."""
    parts = ["set -euo pipefail"]
    for kind, text in BLOCK.findall(README.read_text()):
        parts.append(text if kind == "console" else f"python - <<'PROGRAM'\n{text}PROGRAM")
    return "\n".join(parts)


@contextmanager
def example(data_dir: Path) -> Iterator[dict[str, Any]]:
    """Runs `paybill up --example support-agent`; yields what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYBILL_")}
    command = [sys.executable, "-m", "paybill_cli", "up", "--json", "--data-dir", str(data_dir)]
    command += ["--example", "support-agent"]
    with (
        (data_dir / "messages").open("w") as messages,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, (data_dir / "messages").read_text()
            yield json.loads(line)["data"]
        finally:
            process.terminate()
            process.communicate()


def variables(data_dir: Path, key: str, prepared: dict[str, Any]) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(data_dir),
        "PAYBILL_DATA_DIR": str(data_dir),
        "PAYBILL_API_KEY": key,
        "AGENT_ADDRESS": prepared["address"],
        "AGENT_KEY": prepared["key"],
    }


def test_the_readme_of_the_example_is_true_and_a_restart_keeps_the_agent(tmp_path: Path) -> None:
    with example(tmp_path) as first:
        environment = variables(tmp_path, first["operator_key"], first["example"])
        done = subprocess.run(
            ["bash", "-c", script()], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    printed = done.stdout.splitlines()
    assert "['refund', 'refund__propose']" in printed
    assert [line for line in printed if re.match(r"t-1\d: ", line)] == [
        "t-17: finished",
        "t-18: approval_required",
        "t-19: invalid_input",
        "t-18: finished",
    ]
    assert not any("@example.com" in line for line in printed)

    with example(tmp_path) as second:
        assert second["example"] == first["example"]
        environment = variables(tmp_path, first["operator_key"], first["example"])
        command = [sys.executable, "-m", "paybill_cli", "agent", "end", "helpdesk", "--yes"]
        subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True)

    with example(tmp_path) as third:
        assert third["example"] == first["example"] | {"key": ""}
        assert "the agent helpdesk is ended, and is not registered again" in (tmp_path / "messages").read_text()
