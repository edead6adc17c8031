"""A reply subject is not checked by NATS: whatever an identity asks, no answer reaches what belongs to others."""

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import product

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, RawStreamMsg, StreamConfig
from nats.js.errors import NotFoundError
from paybill_embedded import NatsServer
from paybill_embedded.subscribers import Subscriber, read_subscribers, store_subscriber
from paybill_embedded.users import IDENTITIES, STREAMS, permissions, subscriber_permissions
from typing_extensions import override

JS = "$JS.API"
OBSERVER = "observer"
SUBSCRIBER, PUBLISHERS = "crm", ("metering", "other")
ALL = (*IDENTITIES, *PUBLISHERS, SUBSCRIBER)
VICTIM = "victim"
SETTINGS = (
    StreamConfig(name="EVENTS", subjects=["paybill.events.>"], deny_delete=True, deny_purge=True, allow_direct=True),
    StreamConfig(name="INTAKE", subjects=["paybill.intake.>"], allow_direct=True),
    StreamConfig(name="KV_keys", subjects=["$KV.keys.>"], max_msgs_per_subject=1, allow_direct=True),
)
REPLIES = (
    *("paybill.events.3.billing.entitlements_set.v1", "paybill.events.3.tenant.tenant_requested.v1"),
    *("$KV.keys.tenant.a", "$KV.keys.billing.a", "paybill.intake.other.usage.recorded.v1"),
    *("paybill.intake.metering.usage.recorded.v1", "_INBOX_tenant.x", "_INBOX_operator.x"),
    *(f"{JS}.STREAM.{verb}.{stream}" for verb, stream in product(("DELETE", "PURGE", "UPDATE", "CREATE"), STREAMS)),
    *(f"{JS}.STREAM.{verb}.EVENTS" for verb in ("MSG.DELETE", "SNAPSHOT", "LEADER.STEPDOWN")),
    *(f"{JS}.CONSUMER.{verb}.EVENTS.{VICTIM}" for verb in ("CREATE", "DELETE", "PAUSE", "RESET", "UNPIN", "MSG.NEXT")),
)
NO_BODY = b""
TRACE = "Nats-Trace-Dest"
"""Header with the subject to which the server publishes how it routed a message."""
OPEN = ALL if os.environ.get("PAYBILL_TEST_LONG_BUS") else ("tenant", "metering", SUBSCRIBER)
"""Identities that are tried without permissions: all of them in the long form."""
Request = tuple[str, str, bytes, dict[str, str] | None]
"""Subject, reply subject, payload and headers."""


class ObservedNats(NatsServer):
    """NATS server with one more user, in the account of JetStream, that may read everything."""

    @override
    def configuration(self) -> str:
        text = super().configuration().replace("  sync_interval: always\n", "")
        return text.replace("    exports: [\n", f'    users: [{{user: "{OBSERVER}", password: "o"}}]\n    exports: [\n')


class OneAccountNats(ObservedNats):
    """The same users with the same permissions, but all in the account of JetStream."""

    @override
    def configuration(self) -> str:
        text = super().configuration()
        users = re.findall(r"users: \[(\{.*?\}\})\]", text[text.index("exports: [") :], re.DOTALL)
        head = text[: text.index("    exports: [")].replace('password: "o"}]', f'password: "o"}}, {", ".join(users)}]')
        return head + "  }\n}\n"


class OpenNats(ObservedNats):
    """The same accounts, but their users have no permissions: only what each account imports limits them."""

    @override
    def configuration(self) -> str:
        return re.sub(r", permissions: \{.*?\n  *\}\}\]", "}]", super().configuration(), flags=re.DOTALL)


async def _connect(server: NatsServer, user: str) -> Client:
    password = "o" if user == OBSERVER else server.password(user)
    return await nats.connect(
        server.url, user=user, password=password, inbox_prefix=f"_INBOX_{user}".encode(), error_cb=_ignore
    )


async def _ignore(_error: Exception) -> None:
    """Ignores what the server refuses: it is what the test expects."""


async def _fill(observer: Client) -> None:
    """Creates the streams, with messages of every identity that a request can repeat, and a consumer to attack."""
    js = observer.jetstream()
    for settings in SETTINGS:
        await js.add_stream(settings)
    await js.add_consumer("EVENTS", ConsumerConfig(name=VICTIM, durable_name=VICTIM, ack_policy="explicit"))
    material = (NO_BODY, b"{}", json.dumps({"name": "EVENTS", "subjects": ["x"], "max_msgs": 1}).encode())
    for service, body in product(("tenant", "billing", "provisioner", "agent-gateway"), material):
        await js.publish(f"paybill.events.3.{service}.thing_done.v1", body)
    for owner in ("tenant", "billing", "provisioner", "agent-gateway"):
        await js.publish(f"$KV.keys.{owner}.a", b"sealed")
    for publisher in PUBLISHERS:
        await js.publish(f"paybill.intake.{publisher}.usage.recorded.v1", b"{}")


async def _content(observer: Client, rights: tuple[str, ...]) -> Counter[str]:
    """Returns settings and messages of all streams, without the messages that an identity with `rights` may store."""
    js = observer.jetstream(timeout=30)
    own = re.compile("|".join(_pattern(right) for right in rights))
    found: Counter[str] = Counter()
    for stream in STREAMS:
        try:
            info = await js.stream_info(stream)
        except NotFoundError:
            continue
        found[f"{stream}: {info.config}"] += 1
        for sequence in range(1, info.state.last_seq + 1):
            try:
                stored: RawStreamMsg = await js.get_msg(stream, sequence)
            except NotFoundError:
                continue
            if not own.fullmatch(stored.subject or ""):
                found[f"{stream}: {stored.subject} {stored.data!r} {stored.headers}"] += 1
    if "EVENTS" in {name.split(":")[0] for name in found}:
        try:
            victim = await js.consumer_info("EVENTS", VICTIM)
            found[f"consumer: {victim.config} {victim.num_ack_pending} {victim.paused}"] += 1
        except NotFoundError:
            found["consumer: deleted"] += 1
    return found


def _pattern(right: str) -> str:
    return re.escape(right).replace(r"\*", r"[^.]+").replace(">", ".+")


def _subject(right: str) -> str:
    """Returns the subject of a right; those of the operator's consumers name one that the same requests create."""
    if ".CONSUMER." in right:
        return right.replace("EVENTS.>", "EVENTS.mine").replace(".>", ".paybill.events.>").replace("*", "3")
    last = {"paybill": "thing_done.v1", "$KV": "b", "$JS": "a"}[right.split(".", maxsplit=1)[0]]
    return right.replace("*", "3").replace(">", last)


def _bodies(sequences: range) -> tuple[bytes, ...]:
    requests: tuple[dict[str, object], ...] = (
        {},
        *({"seq": sequence} for sequence in sequences),
        {"last_by_subj": "paybill.events.3.tenant.thing_done.v1"},
        {"batch": 3, "no_wait": True},
        {"stream_name": "EVENTS", "config": {"name": "mine", "ack_policy": "none"}},
        {"stream_name": "EVENTS", "config": {"name": "pushed", "deliver_subject": "$KV.keys.tenant.a"}},
    )
    return (NO_BODY, *(json.dumps(request).encode() for request in requests))


def _rights(server: NatsServer, user: str) -> tuple[str, ...]:
    subscriber: Subscriber | None = read_subscribers(server.data_dir).get(user)
    return (permissions(user) if subscriber is None else subscriber_permissions(subscriber)).publish


def _requests(user: str, rights: set[str]) -> Iterator[Request]:
    """Yields every right with every foreign subject: as a reply, in a header, or as where a consumer delivers.

    Of the consumers of an identity, the first one represents the others.
    """
    subjects = [_subject(right) for right in sorted(rights) if not re.search(r"-([2-9]|\d\d)(\.|$)", right)]
    for subject, foreign, body in product(subjects, REPLIES, _bodies(range(1, 13))):
        yield subject, foreign, body, None
    for subject, (number, foreign) in product(subjects, enumerate(REPLIES)):
        yield subject, "", b"{}", {TRACE: foreign}
        if ".CONSUMER.CREATE." in subject:
            _, _, _, _, stream, name, *filters = subject.split(".")
            name = re.sub(r"-1$", f"-{number % 15 + 2}", name)
            config = {"name": name, "ack_policy": "none", "deliver_subject": foreign}
            request = json.dumps({"stream_name": stream, "config": config | _filter(".".join(filters))})
            yield ".".join((f"{JS}.CONSUMER.CREATE", stream, name, *filters)), "", request.encode(), None
    if user != "steward":
        yield from _stream_changes()


def _filter(subject: str) -> dict[str, str]:
    return {"filter_subject": subject} if subject else {}


def _stream_changes() -> Iterator[Request]:
    """Yields requests that would copy messages: with a mirror, sources or republishing, and without limits."""
    for verb, settings in product(("CREATE", "UPDATE"), SETTINGS):
        copies = {"republish": {"src": ">", "dest": "$KV.keys.billing.>"}, "sources": [{"name": "INTAKE"}]}
        for more in ({"max_msgs": 1}, {"allow_rollup_hdrs": True}, {"mirror": {"name": "EVENTS"}}, copies):
            for name in (settings.name, "COPY"):
                body = {"name": name, "subjects": settings.subjects if name != "COPY" else []} | more
                yield f"{JS}.STREAM.{verb}.{name}", "", json.dumps(body).encode(), None


async def _attack(
    server: NatsServer, user: str, rights: set[str], watched: str
) -> tuple[int, Counter[str], Counter[str], Counter[str]]:
    """Sends a request for each of `rights` with every foreign subject, as `user`.

    watched: what the others subscribe to, `{}` is the name of each.

    Returns how many, the content before and after, and the messages in the inboxes of others.
    """
    received: Counter[str] = Counter()

    async def note(message: Msg) -> None:
        received[message.subject] += 1

    async with AsyncExitStack() as stack:
        clients = {name: await _connect(server, name) for name in (OBSERVER, *ALL)}
        for name, client in clients.items():
            stack.push_async_callback(client.close)
            if name not in {OBSERVER, user}:
                await client.subscribe(watched.format(name), cb=note)
                await client.flush()
        observer, attacker = clients[OBSERVER], clients[user]
        own = _rights(server, user)
        before = await _content(observer, own)
        requests = list(_requests(user, rights))
        print(f"{user}: {len(requests)} requests")  # noqa: T201  # the figure of the long form
        for subject, reply, body, headers in requests:
            await attacker.publish(subject, body, reply=reply, headers=headers)
        for client in (attacker, *clients.values()):
            await client.flush(60)
        await asyncio.sleep(0.3)  # an answer that crossed would be stored after the flush
        return len(requests), before, await _content(observer, own), received


@pytest.fixture
async def observed(tmp_path):
    """`await observed(kind)` starts a server of that kind with streams and a subscriber."""
    async with AsyncExitStack() as stack:

        async def start(kind: type[ObservedNats]) -> NatsServer:
            store_subscriber(tmp_path, SUBSCRIBER, ("tenant",), batches=True)
            server = stack.enter_context(kind(tmp_path, publishers=PUBLISHERS))
            observer = await _connect(server, OBSERVER)
            await _fill(observer)
            await observer.close()
            return server

        yield start


@pytest.mark.parametrize("user", ALL)
async def test_no_answer_leaves_the_account_of_the_identity_that_asked(observed, user) -> None:
    server = await observed(ObservedNats)

    requests, before, after, received = await _attack(server, user, set(_rights(server, user)), "_INBOX_{}.x")

    assert requests >= len(REPLIES)
    assert (after, received) == (before, Counter())


@pytest.mark.parametrize("user", OPEN)
async def test_the_accounts_alone_hold_when_their_users_have_no_permissions(observed, user) -> None:
    """Each identity then tries the subjects of all, and the others receive everything in their accounts."""
    server = await observed(OpenNats)
    assert "permissions" not in server.configuration()
    rights = {right for each in ALL for right in _rights(server, each) if each != "steward" or user == "steward"}

    requests, before, after, received = await _attack(server, user, rights, ">")

    assert requests >= len(REPLIES) * len(ALL)
    assert (after, received) == (before, Counter())


@pytest.mark.parametrize("user", ["tenant", "operator", "metering"])
async def test_in_one_account_the_same_requests_change_what_belongs_to_others(observed, user) -> None:
    server = await observed(OneAccountNats)

    _, before, after, received = await _attack(server, user, set(_rights(server, user)), "_INBOX_{}.x")

    assert after != before or received
