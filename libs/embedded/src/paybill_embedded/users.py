"""Identities on NATS: one table of their rights, for the embedded server and for a cluster's configuration.

Each identity has an account of its own, and JetStream is in an account without users. An account imports the subjects
that its identity may publish to. NATS checks the subject of a message and never its reply subject, to which the server
itself publishes an answer: in one account, a request with a foreign reply subject made the server write there. An
answer cannot leave the account of the identity that asked.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import bcrypt

from paybill_embedded.subscribers import Subscriber

SERVICES = ("tenant", "billing", "provisioner", "agent-gateway")
IDENTITIES = ("steward", *SERVICES, "operator")
STREAMS = ("EVENTS", "INTAKE", "KV_keys")
CORE = "PAYBILL"
"""The account with JetStream. The server names the folder of its streams after it, so that the name cannot change."""

SERVICE_CONSUMERS = 32
SUBSCRIBER_CONSUMERS = 16
"""Names of consumers that an identity may use on a stream; `paybill_contracts.consumer_names` has the same."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ENVIRONMENT_VARIABLE = re.compile(r"\$[A-Z][A-Z0-9_]*")
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f]+")
_CONSUME_EVENTS, _CONSUME_INTAKE = (
    tuple(f"$JS.API.CONSUMER.{verb}.{stream}.>" for verb in ("CREATE", "INFO", "MSG.NEXT"))
    for stream in ("EVENTS", "INTAKE")
)
# Services whose personal data a service may open besides its own: billing writes invoices to the tenant's contact.
_READABLE_KEYS = {"billing": ("tenant",)}
# Owners of event types that others publish into INTAKE: billing owns usage.
_INTAKE_OWNERS = ("billing",)


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a user may publish to and subscribe to; all else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A node of a cluster: the address for the other nodes, and the routes to them (nats-route URLs)."""

    name: str
    listen: str
    routes: tuple[str, ...]
    user: str
    password: str


def permissions(user: str) -> Permissions:
    """Returns the permissions of `user`; a name that is not a service identity is a publisher, which has the fewest."""
    if not _NAME.fullmatch(user):
        msg = (
            f"{user!r} is not a user name: a lower-case letter, then at most 31 of lower-case letters, digits, - and _"
        )
        raise ValueError(msg)
    return Permissions(publish=_publish(user), subscribe=(f"_INBOX_{user}.>",))


def subscriber_permissions(subscriber: Subscriber) -> Permissions:
    """Returns the permissions of a subscriber: its consumers, and no publishing.

    It cannot create or change its durable consumer, so it reads what the operator configured. A consumer that it
    creates for batches must name one filter in the subject of the request: the server compares it with the
    configuration, and NATS compares it with the permission. Of the key bucket it may read the keys of the contexts
    whose personal data it may open.
    """
    filters = tuple(f"paybill.events.*.{_context(context)}.>" for context in subscriber.contexts)
    name, stream = subscriber.consumer, "EVENTS"
    if subscriber.batches:
        own = _consumer_names(subscriber.name, SUBSCRIBER_CONSUMERS)
        consume = (
            *(f"$JS.API.CONSUMER.CREATE.{stream}.{each}.{subjects}" for each in own for subjects in filters),
            *(f"$JS.API.CONSUMER.{verb}.{stream}.{each}" for each in (name, *own) for verb in ("INFO", "MSG.NEXT")),
            *(f"$JS.API.CONSUMER.DELETE.{stream}.{each}" for each in own),
        )
    else:
        consume = (f"$JS.API.CONSUMER.INFO.{stream}.{name}", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}")
    publish = (*consume, f"$JS.ACK.{stream}.{name}.>", *_read_keys(map(_context, subscriber.opens)))
    return Permissions(publish=publish, subscribe=permissions(subscriber.name).subscribe)


def _context(context: str) -> str:
    if not _NAME.fullmatch(context):
        msg = f"{context!r} is not the name of a context"
        raise ValueError(msg)
    return context


def _publish(user: str) -> tuple[str, ...]:
    info = ("$JS.API.INFO", *(f"$JS.API.STREAM.INFO.{stream}" for stream in STREAMS))
    read_events = ("$JS.API.DIRECT.GET.EVENTS", "$JS.API.STREAM.MSG.GET.EVENTS")
    if user == "steward":
        # No delete and no purge: the log is append-only for every user.
        changes = (f"$JS.API.STREAM.{verb}.{stream}" for stream in STREAMS for verb in ("CREATE", "UPDATE"))
        # It fills the sequences that no outbox has when the log is rebuilt.
        return (*info, *changes, "paybill.events.0.steward.>")
    if user == "operator":
        # It creates the durable consumers of subscribers, deletes those of removed ones, and counts all.
        names = tuple(f"$JS.API.CONSUMER.NAMES.{stream}" for stream in STREAMS)
        return (*info, *_CONSUME_EVENTS, "$JS.API.CONSUMER.DELETE.EVENTS.>", *names, *read_events)
    if user in SERVICES:
        return (
            f"paybill.events.*.{user}.>",
            f"$KV.keys.{user}.>",
            *info,
            *_consume("EVENTS", user),
            *read_events,
            *_read_keys((user, *_READABLE_KEYS.get(user, ()))),
            *(_own_intake(user) if user in _INTAKE_OWNERS else ()),
        )
    return (f"paybill.intake.{user}.>",)


def _read_keys(owners: Iterable[str]) -> tuple[str, ...]:
    """Returns the subjects of reading data keys. The other form, without the key in the subject, could read any key."""
    return tuple(f"$JS.API.DIRECT.GET.KV_keys.$KV.keys.{owner}.>" for owner in owners)


def _own_intake(user: str) -> tuple[str, ...]:
    """Returns the subjects of an owner of INTAKE. It publishes only its probe messages, which test the stream."""
    return (*_consume("INTAKE", user), "$JS.API.DIRECT.GET.INTAKE", f"paybill.intake.{user}.probe")


def _consume(stream: str, user: str) -> tuple[str, ...]:
    """Returns the rights on the consumers of one service: it can use no other names, and so no more than these."""
    verbs = ("CREATE", "INFO", "MSG.NEXT", "DELETE")
    names = _consumer_names(user, SERVICE_CONSUMERS)
    subjects = [f"$JS.API.CONSUMER.{verb}.{stream}.{name}" for name in names for verb in verbs]
    creations = (f"$JS.API.CONSUMER.CREATE.{stream}.{name}.>" for name in names)
    return (*subjects, *creations, f"$JS.API.CONSUMER.NAMES.{stream}")


def _consumer_names(name: str, amount: int) -> tuple[str, ...]:
    return tuple(f"{name}-{number}" for number in range(1, amount + 1))


def render_conf(
    passwords: Mapping[str, str],
    *,
    subscribers: Mapping[str, Subscriber] = MappingProxyType({}),
    listen: str,
    store_dir: str,
    server_name: str,
    monitor: str | None = None,
    cluster: Cluster | None = None,
) -> str:
    """Returns the text of nats-server.conf: the account with JetStream, and one with one user for each of `passwords`.

    subscribers: those of the users that are subscribers. listen, monitor: host:port. The text holds hashes of the
    passwords of users. The server itself resolves a cluster's password such as `$ROUTE` from its environment.
    """
    lines = [
        f"server_name: {_value(server_name)}",
        f"listen: {_value(listen)}",
        *([f"http: {_value(monitor)}"] if monitor else []),
        "jetstream {",
        f"  store_dir: {_value(store_dir)}",
        "  # Acknowledge after fsync: by default JetStream acknowledges up to two minutes before it.",
        "  sync_interval: always",
        "}",
        *(_cluster_lines(cluster) if cluster else []),
        "system_account: SYS",
        "accounts {",
        "  SYS {}",
        f"  {CORE} {{",
        "    jetstream: enabled",
        "    exports: [",
        *(f"      {line}" for line in _exports()),
        "    ]",
        "  }",
        *(
            f"  {line}"
            for user, secret in passwords.items()
            for line in account_lines(user, secret, subscribers.get(user))
        ),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _exports() -> list[str]:
    """Returns the exports of the account with JetStream: every subject that any identity imports a part of."""
    streams = [f"$JS.API.STREAM.{verb}.{stream}" for stream in STREAMS for verb in ("INFO", "CREATE", "UPDATE")]
    subjects = [
        "paybill.events.>",
        "paybill.intake.>",
        "$KV.keys.>",
        "$JS.API.INFO",
        *streams,
        *_CONSUME_EVENTS,
        *_CONSUME_INTAKE,
        *(f"$JS.API.CONSUMER.NAMES.{stream}" for stream in STREAMS),
        "$JS.API.CONSUMER.DELETE.EVENTS.>",
        "$JS.API.CONSUMER.DELETE.INTAKE.>",
        "$JS.API.STREAM.MSG.GET.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS",
        "$JS.API.DIRECT.GET.INTAKE",
        "$JS.API.DIRECT.GET.KV_keys.$KV.keys.>",
        "$JS.ACK.EVENTS.>",
    ]
    # A request for messages has many answers; without the type, the server would end the import after the first one.
    return [
        f"{{service: {_value(subject)}{', response_type: stream' if '.MSG.NEXT.' in subject else ''}}}"
        for subject in subjects
    ]


def account_lines(user: str, secret: str, subscriber: Subscriber | None = None) -> list[str]:
    """Returns the account of one user in nats-server.conf."""
    allowed = permissions(user) if subscriber is None else subscriber_permissions(subscriber)
    # Without this import the server itself answers the requests of an account that has no JetStream, beside the core.
    imports = dict.fromkeys(("$JS.API.INFO", *allowed.publish))
    return [
        f"{_value(f'ID_{user}')}: {{",
        f"  users: [{{user: {_value(user)}, password: {_value(_hashed(user, secret))}, permissions: {{",
        f"    publish: {{allow: [{', '.join(map(_value, allowed.publish))}]}}",
        f"    subscribe: {{allow: [{', '.join(map(_value, allowed.subscribe))}]}}",
        "  }}]",
        "  imports: [",
        *(f"    {{service: {{account: {CORE}, subject: {_value(subject)}}}}}" for subject in imports),
        "  ]",
        "}",
    ]


def _hashed(user: str, password: str) -> str:
    """Returns the form of bcrypt that the server compares a password with; equal for equal arguments.

    Passwords here are random and of 256 bits, so that the lowest cost is enough, and the salt may follow from them.
    """
    salt = hashlib.sha256(f"{user}:{password}".encode()).hexdigest()[:21] + "."  # 22 characters of bcrypt's alphabet
    return bcrypt.hashpw(password.encode(), f"$2a$04${salt}".encode("ascii")).decode("ascii")


def _cluster_lines(cluster: Cluster) -> list[str]:
    return [
        "cluster {",
        f"  name: {_value(cluster.name)}",
        f"  listen: {_value(cluster.listen)}",
        f"  authorization {{user: {_value(cluster.user)}, password: {_value(cluster.password)}}}",
        f"  routes: [{', '.join(map(_value, cluster.routes))}]",
        "}",
    ]


def _value(text: str) -> str:
    """Returns `text` in the syntax of the configuration: an environment variable bare, any other value quoted."""
    if _ENVIRONMENT_VARIABLE.fullmatch(text):
        return text
    if not _ONE_LINE.fullmatch(text):
        msg = "a value of nats-server.conf is empty or has a control character"
        raise ValueError(msg)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
