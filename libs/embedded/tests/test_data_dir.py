"""The data directory: its permissions, and its lock."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from paybill_embedded import DataDir, EmbeddedError, NatsServer, PostgresServer

_HOLDER_PROGRAM = """
import pathlib, sys, time
import paybill_embedded
lock = paybill_embedded.DataDir(pathlib.Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _HOLDER_PROGRAM, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_new_data_directory_is_private(tmp_path):
    with DataDir(tmp_path / "deep" / "data") as data:
        assert stat.S_IMODE(data.path.stat().st_mode) == 0o700
        assert stat.S_IMODE((data.path / "lock").stat().st_mode) == 0o600


def test_a_second_process_is_refused_with_the_holder_of_the_directory(tmp_path):
    with _holder(tmp_path) as holder:
        with pytest.raises(EmbeddedError) as refused:
            DataDir(tmp_path).acquire()
        holder.kill()

    assert refused.value.code == "data_dir_in_use"
    assert f"in use by process {holder.pid}; stop it first (kill {holder.pid})" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_crash_leaves_no_stale_lock(tmp_path):
    with _holder(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()

    assert (tmp_path / "lock").read_text() == f"{holder.pid}\n"
    with DataDir(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_released_directory_can_be_acquired_again(tmp_path):
    data = DataDir(tmp_path).acquire()
    data.release()

    with DataDir(tmp_path):
        pass


def test_a_file_is_refused_as_data_directory(file_in_the_way):
    with pytest.raises(EmbeddedError, match=r"cannot be written: it is a file; choose another") as refused:
        DataDir(file_in_the_way).acquire()

    assert refused.value.code == "data_dir_unwritable"


@pytest.mark.parametrize("use", [DataDir.acquire, NatsServer.start, PostgresServer.start])
def test_an_unwritable_path_is_one_clear_line(file_in_the_way, use):
    kind = {DataDir.acquire: DataDir, NatsServer.start: NatsServer, PostgresServer.start: PostgresServer}[use]

    with pytest.raises(EmbeddedError, match="cannot be written: not a directory") as refused:
        use(kind(file_in_the_way / "data"))

    assert refused.value.code == "data_dir_unwritable"
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [NatsServer, PostgresServer])
def test_an_obstacle_to_a_server_is_one_clear_line(tmp_path, kind):
    for name in ("nats", "postgres"):
        (tmp_path / f"{name}.lock").mkdir()

    with pytest.raises(EmbeddedError, match="cannot be written: is a directory") as refused:
        kind(tmp_path).start()

    assert refused.value.code == "data_dir_unwritable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; a path below a file covers it")
def test_a_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(EmbeddedError, match="permission denied"):
        DataDir(tmp_path).acquire()
