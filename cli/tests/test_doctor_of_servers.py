"""`paybill doctor` names a server that answers and takes no write, and its advice works."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from nats.js.errors import Error as JetStreamError
from paybill_cli.exit_codes import ExitCode
from paybill_runtime.messaging.streams import connect

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024


class LimitedDisk:
    """A file system in memory whose size can be changed."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self._mount(f"size={size},mode=700")

    def resize(self, size: int) -> None:
        """Changes its size in bytes; less than what is used leaves no space."""
        self._mount(f"remount,size={size}")

    @property
    def used(self) -> int:
        """Bytes that are in use."""
        return shutil.disk_usage(self.folder).used

    def end(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no right to mount a small disk on this machine: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LimitedDisk]:
    """Returns a disk for the store of NATS of a stack in `tmp_path`."""
    if shutil.which("mount") is None:
        pytest.skip("no mount command on this machine")
    found = LimitedDisk(tmp_path / "nats", 2048 * MIB)
    yield found
    found.end()


async def fill(data_dir: Path) -> None:
    """Publishes messages until NATS confirms none."""
    url = json.loads((data_dir / "stack.json").read_text())["nats"]["url"]
    client = await connect(url, "metering", (data_dir / "credentials" / "nats-metering").read_text().strip())
    with suppress(TimeoutError, JetStreamError):
        for _ in range(100):
            await client.jetstream().publish("paybill.intake.metering.x", b"x" * 60_000, timeout=2)
    await client.close()


def until(found: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_full_disk_of_nats_is_named_and_the_stack_heals_once_it_has_space(run_stack, paybill, tmp_path, disk) -> None:
    with run_stack(tmp_path) as stack:
        assert paybill("doctor", **stack.environment).code == ExitCode.OK
        disk.resize(disk.used + MIB)
        asyncio.run(fill(tmp_path))
        checked = []

        def refused() -> bool:
            checked[:] = [paybill("doctor", "--json", **stack.environment)]
            return "intake_stream writes" in failures(checked[0])

        until(refused)
        [done] = checked
        assert done.code == ExitCode.FAILED
        assert "free space on the disk of NATS" in failures(done)["intake_stream writes"]["fix"]
        assert str(tmp_path / "nats") in failures(done)["disk"]["found"]

        disk.resize(2048 * MIB)

        until(lambda: paybill("doctor", **stack.environment).code == ExitCode.OK)
        assert "restarting" in (tmp_path / "messages").read_text()


def test_a_start_with_little_disk_works_when_nothing_has_to_grow(run_stack, paybill, tmp_path, disk) -> None:
    with run_stack(tmp_path):
        pass
    disk.resize(1000 * MIB)

    with run_stack(tmp_path):
        pass


def test_a_first_start_with_little_disk_names_the_disk(paybill, tmp_path, disk) -> None:
    disk.resize(1000 * MIB)

    done = paybill("up", "--json", "--data-dir", tmp_path)

    assert done.code == ExitCode.FAILED
    assert done.error["code"] == "nats_disk_full"
    assert "the stream INTAKE cannot be created" in str(done.error)
    assert str(tmp_path / "nats") in done.error["next"]


def test_a_stopped_nats_is_named_and_no_service_is_to_be_restarted(run_stack, paybill, tmp_path) -> None:
    with run_stack(tmp_path) as stack:
        pid = int((tmp_path / "nats.lock").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            done = paybill("doctor", "--json", **stack.environment)
        finally:
            os.kill(pid, signal.SIGCONT)

        assert done.code == ExitCode.FAILED
        found = json.loads(done.out)["data"]
        assert any(each["part"] == "nats" and each["state"] == "failed" for each in found), found
        assert [each for each in found if "restart it" in (each["fix"] or "") and each["check"] == "ready"] == []
        until(lambda: paybill("doctor", **stack.environment).code == ExitCode.OK)


def failures(done) -> dict[str, dict[str, str]]:
    """Returns the failed checks of a doctor, by their names."""
    return {each["check"]: each for each in done.data if each["state"] == "failed"}
