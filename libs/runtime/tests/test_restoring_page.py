"""docs/restoring.md quotes the messages of the restore guard and the relay as the code writes them."""

import ast
import inspect
from pathlib import Path

import pytest
from paybill_runtime.decisions import restore_guard
from paybill_runtime.messaging import relay, stream_identity

PAGE = (Path(__file__).parents[3] / "docs" / "restoring.md").read_text()


def message_parts() -> list[str]:
    """Returns the fixed parts of every message about a mismatch, and of the relay's message about NATS."""
    calls = [
        node
        for module in (relay, stream_identity)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"LogStateMismatchError", "self._pause"}
    ]
    messages = [
        [part.value.strip() for part in call.args[0].values if isinstance(part, ast.Constant)]
        for call in calls
        if isinstance(call.args[0], ast.JoinedStr)
    ]
    return [part for message in messages if not message[0].startswith("keys of") for part in message]


@pytest.mark.parametrize("part", message_parts())
def test_the_page_quotes_the_messages_of_the_code(part: str) -> None:
    assert part in PAGE


@pytest.mark.parametrize("reason", [restore_guard.OLDER_STREAM, restore_guard.OLDER_DATABASE])
def test_the_page_quotes_reason_and_action(reason: str) -> None:
    cause, _, action = reason.partition("; ")

    assert cause in PAGE
    assert action.rpartition("; ")[2].removeprefix("a running ") in PAGE


def test_the_messages_are_found() -> None:
    assert {"the stream ends at", "NATS does not accept facts ("} <= set(message_parts())
