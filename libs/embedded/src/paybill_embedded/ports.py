"""Loopback ports: finding a free one, and checking that one is free."""

import errno
import socket

from paybill_embedded.errors import EmbeddedError

LOOPBACK = "127.0.0.1"
_handed_out: set[int] = set()


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that is free and stays reserved for about a minute.

    The kernel picks it; one connection to it, closed from the accepting end, leaves it in TIME_WAIT. For that time
    neither bind(0) nor connect() of any process gets the port, while a server that sets SO_REUSEADDR may bind it.
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
    """Raises port_taken or port_refused when `what` cannot listen on 127.0.0.1:port."""
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_taken(port, what) from error
        raise EmbeddedError(
            "port_refused", f"{what} may not listen on {LOOPBACK}:{port}: {error.strerror}", "choose a port above 1023"
        ) from error


def port_taken(port: int, what: str) -> EmbeddedError:
    """Returns the error for a port that another program holds."""
    return EmbeddedError(
        "port_taken",
        f"{what} cannot listen on {LOOPBACK}:{port}: the port is taken",
        f"stop the program that listens there (ss -ltnp 'sport = :{port}' names it) or choose another port",
    )
