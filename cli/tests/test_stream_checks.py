"""`paybill doctor` finds every setting of a stream that is not as created, and streams that are short of consumers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig
from paybill_cli.client.stack import Stack
from paybill_cli.commands.checks import Check, State
from paybill_cli.commands.stream_checks import _space, _version, stream_checks
from paybill_embedded.nats import NatsServer
from paybill_runtime.messaging.consumer_creation import create_consumer
from paybill_runtime.messaging.streams import EVENTS, INTAKE, KEYS, connect, ensure

T = TypeVar("T")
STACK = Stack(data_dir=Path("no-stack"))
CHANGES: list[dict[str, Any]] = [
    {"subjects": ["paybill.other.>"]},
    {"retention": "interest"},
    {"max_consumers": 2},
    {"max_msgs": 5},
    {"max_bytes": 100_000},
    {"max_age": 10**12},
    {"max_msgs_per_subject": 7},
    {"max_msg_size": 1000},
    {"discard": "old"},
    {"no_ack": True},
    {"duplicate_window": 3 * 10**9},
    {"sources": [{"name": "OTHER"}]},
    {"subject_transform": {"src": ">", "dest": "other.>"}},
    {"republish": {"src": ">", "dest": "other.>"}},
    {"mirror_direct": True},
    {"consumer_limits": {"max_ack_pending": 3}},
    {"allow_direct": False},
    {"allow_rollup_hdrs": True},
    {"discard_new_per_subject": True, "max_msgs_per_subject": 1},
    {"allow_atomic": True},
]
"""Each setting that nats-server changes and changes back."""
REFUSED = {"allow_rollup_hdrs", "discard_new_per_subject", "allow_atomic"}
"""Those that it refuses for one of the streams, or that the stream has."""
PERMANENT = ("deny_delete", "deny_purge", "allow_msg_ttl", "sealed")


async def _update(steward: Client, stream: str, change: dict[str, Any]) -> bool:
    """Changes settings of a stream; returns whether they are other ones now."""
    config = (await _call(steward, f"STREAM.INFO.{stream}", {}))["config"]
    answer = await _call(steward, f"STREAM.UPDATE.{stream}", config | change)
    return config != answer.get("config", config)


async def _call(client: Client, subject: str, body: dict[str, Any]) -> Any:
    return json.loads((await client.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=5)).data)


def _as_steward_and_operator(nats: NatsServer, act: Callable[[Client, Client], Awaitable[T]]) -> T:
    async def run() -> T:
        steward = await connect(nats.url, "steward", nats.password("steward"))
        operator = await connect(nats.url, "operator", nats.password("operator"))
        try:
            return await act(steward, operator)
        finally:
            await steward.close()
            await operator.close()

    return asyncio.run(run())


@pytest.mark.parametrize("stream", [EVENTS, INTAKE, KEYS])
def test_every_changed_setting_is_found_and_the_streams_job_restores_it(nats: NatsServer, stream: str) -> None:
    async def act(steward: Client, operator: Client) -> dict[str, tuple[Check, Check]]:
        checks = {}
        for change in CHANGES:
            if await _update(steward, stream, change):
                [found, *_] = await stream_checks(operator, stream, STACK)
                await ensure(steward)
                [restored, *_] = await stream_checks(operator, stream, STACK)
                checks[next(iter(change))] = (found, restored)
        return checks

    checks = _as_steward_and_operator(nats, act)

    assert {next(iter(change)) for change in CHANGES} - checks.keys() <= REFUSED
    for key, (found, restored) in checks.items():
        assert (found.state, restored.state) == (State.FAILED, State.OK), (key, restored.found)
        assert f"{key} is " in found.found


@pytest.mark.parametrize("setting", PERMANENT)
def test_a_setting_that_nats_does_not_change_back_is_found(tmp_path: Path, setting: str) -> None:
    async def act(steward: Client, operator: Client) -> Check:
        await ensure(steward)
        assert await _update(steward, INTAKE, {setting: True})
        return (await stream_checks(operator, INTAKE, STACK))[0]

    with NatsServer(tmp_path) as nats:
        check = _as_steward_and_operator(nats, act)

    assert check.state is State.FAILED
    assert f"{setting} is true instead of off: " in check.found
    assert "does not change" in check.fix


def test_it_names_what_a_setting_allows_and_who_restores_it(nats: NatsServer) -> None:
    async def act(steward: Client, operator: Client) -> Check:
        assert await _update(steward, KEYS, {"allow_rollup_hdrs": True})
        return (await stream_checks(operator, KEYS, STACK))[0]

    check = _as_steward_and_operator(nats, act)

    assert check.found == "allow_rollup_hdrs is true instead of off: one message can erase the others"
    assert "PAYBILL_NATS_USER=steward PAYBILL_NATS_PASSWORD_FILE=" in check.fix


def test_a_missing_stream_is_found(tmp_path: Path) -> None:
    async def act(_: Client, operator: Client) -> list[Check]:
        return await stream_checks(operator, EVENTS, STACK)

    with NatsServer(tmp_path) as bare:
        [check] = _as_steward_and_operator(bare, act)

    assert (check.state, check.check) == (State.FAILED, EVENTS)


@pytest.mark.parametrize(("amount", "state"), [(22, State.OK), (23, State.NOTED), (29, State.FAILED)])
def test_an_identity_that_is_short_of_consumers_is_named(nats: NatsServer, amount: int, state: State) -> None:
    """A service may have 32 on a stream: it is warned of at 70 %, and fails at 90 %."""
    consumer = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=60, mem_storage=True, num_replicas=1)

    async def act(_: Client, operator: Client) -> Check:
        billing = await connect(nats.url, "billing", nats.password("billing"))
        for _ in range(amount):
            await create_consumer(billing, INTAKE, consumer)
        await create_consumer(operator, EVENTS, consumer)
        checks = await stream_checks(operator, INTAKE, STACK)
        await billing.close()
        return next(check for check in checks if check.check.endswith("consumers"))

    check = _as_steward_and_operator(nats, act)

    assert (check.check, check.state) == ("INTAKE consumers", state)
    assert check.found == f"{amount} of 64 consumers: billing {amount}"


@pytest.mark.parametrize(
    ("version", "replicas", "warns"),
    [
        ("2.12.8", 3, False),
        ("2.13.9", 3, False),
        ("2.14.0", 3, True),
        ("2.15.1-RC.1", 3, True),
        ("2.15.1", 1, False),
        ("2.15.2", 3, False),
        ("", 3, False),
    ],
)
def test_a_version_that_stops_replicated_streams_is_warned_of(version: str, replicas: int, warns: bool) -> None:
    checks = list(_version(EVENTS, {"num_replicas": replicas, "metadata": {"_nats.ver": version}}))

    assert [check.state for check in checks] == [State.NOTED] * warns
    assert all("2.12.8" in check.fix for check in checks)


@pytest.mark.parametrize(
    ("used", "states"), [(699, [State.OK]), (700, [State.NOTED]), (900, [State.FAILED]), (1000, [State.FAILED])]
)
def test_a_stream_that_is_nearly_full_is_found(used: int, states: list[State]) -> None:
    assert [check.state for check in _space(INTAKE, 1000, used)] == states
    assert list(_space(EVENTS, -1, used)) == []
