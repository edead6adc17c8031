"""Which port each part has: free ones, and the same ones again after a restart."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

from paybill_cli.errors import usage
from paybill_embedded import free_port
from paybill_embedded.credentials import write_private
from paybill_embedded.ports import LOOPBACK, port_taken

from paybill_stack.layout import SERVICES, STRIPE_FAKE

NATS = "nats"
POSTGRES = "postgres"
PARTS = (NATS, POSTGRES, STRIPE_FAKE, *SERVICES)

_LEAVING_S = 1.0
"""How long a process whose supervisor was killed just now may take to be gone."""

_LOWEST, _HIGHEST = 1024, 65_535


def choose_ports(path: Path, base: int | None, tell: Callable[[str], None]) -> dict[str, int]:
    """A port for each of PARTS: from `base` on if given, else those kept in `path` that are free, else any.

    Raises EmbeddedError port_taken for a port of `base` that is not free: whoever names ports relies on them.
    """
    if base is not None:
        if not _LOWEST <= base <= _HIGHEST - len(PARTS):
            raise usage(
                f"--port-base {base} is out of range", next=f"choose {_LOWEST} to {_HIGHEST - len(PARTS)}", code="ports"
            )
        chosen = {name: base + place for place, name in enumerate(PARTS)}
        for name, port in chosen.items():
            if not _becomes_free(port):
                raise port_taken(port, name)
    else:
        kept = _kept(path)
        chosen = {}
        for name in PARTS:
            if name in kept and _becomes_free(kept[name]):
                chosen[name] = kept[name]
                continue
            chosen[name] = free_port()
            if name in kept:
                tell(f"port {kept[name]} is taken by another program; {name} has {chosen[name]} from now on")
    write_private(path, json.dumps(chosen, indent=2) + "\n")
    return chosen


def _kept(path: Path) -> dict[str, int]:
    """What was chosen last time; nothing when the file is missing or damaged, for then any port will do."""
    try:
        kept = json.loads(path.read_bytes())
        return {name: port for name, port in kept.items() if isinstance(port, int) and _LOWEST <= port <= _HIGHEST}
    except (OSError, ValueError, AttributeError):
        return {}


def _becomes_free(port: int) -> bool:
    deadline = time.monotonic() + _LEAVING_S
    while True:
        try:
            socket.create_server((LOOPBACK, port)).close()
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True
