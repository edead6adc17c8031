"""Checks of `paybill doctor` of each stream: its settings, its consumers, and the server's version."""

import json
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from paybill_cli.client.stack import SERVICES, Stack
from paybill_cli.commands.checks import Check, State, failed, ok
from paybill_cli.errors import CliError

if TYPE_CHECKING:
    from nats.aio.client import Client

TIMEOUT_S = 5.0
WARN_SHARE, FAIL_SHARE = 0.7, 0.9
"""Shares of the consumers that a stream or an identity may have, and of the bytes of a stream."""
AFFECTED_VERSIONS = ((2, 14, 0), (2, 15, 1))
"""Of nats-server, first and last: one condition that does not hold stops a replicated stream for every publisher."""

_EFFECTS = {
    "republish": "its messages are published on other subjects",
    "sources": "it stores the messages of other streams",
    "mirror": "it stores the messages of another stream",
    "subject_transform": "messages are stored on other subjects",
    "allow_rollup_hdrs": "one message can erase the others",
    "allow_msg_ttl": "publishers decide when messages are deleted",
    "deny_delete": "whether messages can be deleted is not as decided",
    "deny_purge": "whether all messages can be deleted is not as decided",
    "no_ack": "publishers do not learn whether a message is stored",
    "sealed": "it takes no message",
    "storage": "a restart loses messages",
    "subjects": "it takes other messages",
    "allow_direct": "services cannot read single messages",
    **dict.fromkeys(
        ("retention", "discard", "max_age", "max_msgs", "max_bytes", "max_msgs_per_subject"),
        "messages are deleted or refused otherwise than decided",
    ),
}
_PERMANENT = ("sealed", "allow_msg_ttl", "deny_delete", "deny_purge", "storage", "mirror")
"""Settings that the server does not change back."""


async def stream_checks(client: "Client", name: str, stack: Stack) -> list[Check]:
    """Compares all settings of a stream with the safe ones, and its consumers with the limits."""
    try:
        info = await _request(client, f"STREAM.INFO.{name}")
    except TimeoutError:
        return [failed("nats", name, f"NATS did not answer within {TIMEOUT_S:.0f} s", "start NATS again")]
    except LookupError as error:
        fix = (
            "stop the stack, then: paybill restore stream --from-outboxes, which rebuilds the log"
            if name == "EVENTS"
            else "stop the services and run paybill up, which creates the streams"
        )
        return [failed("nats", name, f"the stream does not exist ({error})", fix)]
    config, state = info["config"], info["state"]
    found = list(_differences(name, config))
    if found:
        fix = _restore_streams(stack, config["num_replicas"])
        if permanent := [key for key, _ in found if key in _PERMANENT]:
            fix = (
                f"NATS does not change {', '.join(permanent)} back: stop the stack, back {name} up, create it again, "
                f"and restore its messages; then {fix}"
            )
        checks = [failed("nats", name, "; ".join(text for _, text in found), fix)]
    else:
        text = f"{state['messages']} messages, {state['bytes']} bytes, last seq {state['last_seq']}"
        checks = [ok("nats", name, text)]
    checks += _space(name, config["max_bytes"], state["bytes"])
    return [*checks, await _consumers(client, name, config["max_consumers"]), *_version(name, config)]


def _space(name: str, limit: int, used: int) -> Iterator[Check]:
    """Compares the bytes of a stream with its limit, beyond which NATS refuses every message."""
    if limit <= 0:
        return
    share, found = used / limit, f"{used} of {limit} bytes"
    if share < WARN_SHARE:
        yield ok("nats", f"{name} space", found)
    else:
        state = State.FAILED if share >= FAIL_SHARE else State.NOTED
        fix = "stop the publisher that sends most; the messages are deleted after seven days"
        yield Check("nats", f"{name} space", state, found, fix)


def _differences(name: str, found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields each setting that is not as created, with what it is, and what follows from it."""
    from paybill_runtime.messaging.streams import differences

    for key, value, right in differences(name, found):
        effect = f": {_EFFECTS[key]}" if key in _EFFECTS else ""
        yield key, f"{key} is {_text(value)} instead of {_text(right)}{effect}"


def _text(value: Any) -> str:
    return json.dumps(value) if value else "off"


async def _consumers(client: "Client", stream: str, limit: int) -> Check:
    """Compares the numbers of consumers, of the stream and of each identity, with what is possible."""
    from paybill_contracts.consumer_names import SERVICE_CONSUMERS, SUBSCRIBER_CONSUMERS
    from paybill_runtime.messaging.consumer_creation import consumers_by_identity

    try:
        by_identity = await consumers_by_identity(client, stream)
    except TimeoutError:
        fix = "paybill up, which renews the rights of the operator; for another NATS: renew its server file"
        return failed("nats", f"{stream} consumers", "NATS does not list the consumers", fix)
    amounts = [f"{identity} {amount}" for identity, amount in by_identity.most_common()]
    found = f"{by_identity.total()} of {limit} consumers: {', '.join(amounts) or 'none'}"
    limits = dict.fromkeys((*SERVICES, "operator"), SERVICE_CONSUMERS)
    shares = [amount / limits.get(identity, SUBSCRIBER_CONSUMERS) for identity, amount in by_identity.items()]
    share = max([by_identity.total() / limit, *shares])
    if share < WARN_SHARE:
        return ok("nats", f"{stream} consumers", found)
    state = State.FAILED if share >= FAIL_SHARE else State.NOTED
    fix = "stop programs of the identity that has most; unused consumers end after a minute"
    return Check("nats", f"{stream} consumers", state, found, fix)


def _version(name: str, config: dict[str, Any]) -> Iterator[Check]:
    """Warns of a version that stops replicated streams. The server that leads the stream names its version."""
    text = config.get("metadata", {}).get("_nats.ver", "")
    version = tuple(int(part) for part in text.partition("-")[0].split(".") if part.isdecimal())
    first, last = AFFECTED_VERSIONS
    if config["num_replicas"] > 1 and first <= version <= last:
        found = f"nats-server {text} with {config['num_replicas']} replicas: one wrong condition stops {name} for ever"
        fix = "run nats-server 2.12.8 on every node with the same stores: D in docs/restoring.md"
        yield Check("nats", f"{name} version", State.NOTED, found, fix)


async def _request(client: "Client", subject: str) -> dict[str, Any]:
    """Returns the answer of the JetStream API with all fields, also those that the client library does not know."""
    from nats.errors import NoRespondersError

    try:
        message = await client.request(f"$JS.API.{subject}", b"", timeout=TIMEOUT_S)
    except NoRespondersError as error:
        raise LookupError("nobody answers for it") from error
    answer: dict[str, Any] = json.loads(message.data)
    if "error" in answer:
        raise LookupError(answer["error"]["description"])
    return answer


def _restore_streams(stack: Stack, replicas: int) -> str:
    """Returns the command that restores all streams, for the NATS user `steward`: it may create and change streams."""
    from paybill_embedded.credentials import password_file

    try:
        nats = stack.running()["nats"]
    except (CliError, KeyError):
        nats = {}
    file = password_file(stack.data_dir, "nats-steward") if nats.get("embedded") else "FILE"
    settings = {
        "URL": stack.nats_url or nats.get("url", "URL"),
        "USER": "steward",
        "PASSWORD_FILE": file,
        "REPLICAS": replicas,
    }
    environment = [f"PAYBILL_NATS_{key}={shlex.quote(str(value))}" for key, value in settings.items()]
    command = " ".join([*environment, shlex.quote(sys.executable), "-m", "paybill_runtime.messaging.streams"])
    return f"as the NATS user that may create and change streams, run: {command}"
