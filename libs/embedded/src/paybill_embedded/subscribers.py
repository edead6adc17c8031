"""Identities that read events of chosen contexts: a file in the data directory, and their rights on NATS."""

import json
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from paybill_embedded.credentials import write_private
from paybill_embedded.errors import EmbeddedError
from paybill_embedded.lock import sole_writer

FILE = "subscribers.json"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An identity that may read events of `contexts`.

    consumer: name of its durable consumer, which nobody can guess: it is as good as the right to read from it.
    batches: whether it may also create consumers of its own, for reading in batches from any sequence.
    opens: contexts whose personal data it may open.
    """

    name: str
    contexts: tuple[str, ...]
    consumer: str
    batches: bool = False
    opens: tuple[str, ...] = ()


def consumer_name(subscriber: str) -> str:
    """Returns a new name for the durable consumer of `subscriber`."""
    return f"{subscriber}-{secrets.token_hex(8)}"


def read_subscribers(data_dir: Path) -> dict[str, Subscriber]:
    """Returns the subscribers of a data directory by name. Raises EmbeddedError subscribers_unreadable."""
    path = data_dir / FILE
    try:
        entries = json.loads(path.read_bytes())["subscribers"]
        found = [
            Subscriber(**entry | {"contexts": tuple(entry["contexts"]), "opens": tuple(entry.get("opens", ()))})
            for entry in entries
        ]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EmbeddedError(
            "subscribers_unreadable", f"{path} cannot be read: {error}", "repair it, or create the subscribers again"
        ) from error
    return {subscriber.name: subscriber for subscriber in found}


def store_subscriber(
    data_dir: Path, name: str, contexts: tuple[str, ...], *, batches: bool, opens: tuple[str, ...] = ()
) -> Subscriber:
    """Adds a subscriber, or changes the rights of an existing one, which keeps its consumer; returns it."""
    with sole_writer(data_dir / FILE):
        known = read_subscribers(data_dir)
        stored = known.get(name) or Subscriber(name, contexts, consumer_name(name))
        stored = replace(stored, contexts=contexts, batches=batches, opens=opens)
        if known.get(name) != stored:
            _write(data_dir, known | {name: stored})
    return stored


def remove_subscriber(data_dir: Path, name: str) -> None:
    """Removes a subscriber, if it exists. Its login ends when NATS reads its configuration again."""
    with sole_writer(data_dir / FILE):
        known = read_subscribers(data_dir)
        if known.pop(name, None) is not None:
            _write(data_dir, known)


def _write(data_dir: Path, subscribers: dict[str, Subscriber]) -> None:
    entries = [asdict(each) for _, each in sorted(subscribers.items())]
    write_private(data_dir / FILE, json.dumps({"subscribers": entries}, indent=2) + "\n")
