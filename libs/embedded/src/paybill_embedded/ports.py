"""Loopback ports: one that is free, and whether one is taken."""

import errno
import socket

from paybill_embedded.errors import EmbeddedError

LOOPBACK = "127.0.0.1"
_handed_out: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free and stays ours for about a minute.

    The kernel picks it; one connection to it, closed from the accepting end, leaves it in TIME_WAIT. For that long
    neither bind(0) nor connect() of any process is given the port, while a server that sets SO_REUSEADDR may have it.
    """
    while True:
        with socket.create_server((LOOPBACK, 0), backlog=1) as listener:
            port: int = listener.getsockname()[1]
            if port in _handed_out:
                continue
            with socket.create_connection((LOOPBACK, port)):
                accepted, _ = listener.accept()
                accepted.close()
        _handed_out.add(port)
        return port


def require_free(port: int, what: str) -> None:
    """Raises port_taken when somebody listens on 127.0.0.1:port, which `what` wants; port_refused when we may not."""
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_taken(port, what) from error
        raise EmbeddedError(
            "port_refused", f"{what} may not listen on {LOOPBACK}:{port}: {error.strerror}", "choose a port above 1023"
        ) from error


def port_taken(port: int, what: str) -> EmbeddedError:
    """The error for a port that another program holds."""
    return EmbeddedError(
        "port_taken",
        f"{what} cannot listen on {LOOPBACK}:{port}: the port is taken",
        f"stop the program that listens there (ss -ltnp 'sport = :{port}' names it) or choose another port",
    )
