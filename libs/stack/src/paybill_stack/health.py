"""Describes for people the parts of a service that `/readyz` does not report as ok."""

from collections.abc import Mapping
from typing import Any

NATS_UNREACHABLE = "NATS is unreachable"
POSTGRES_UNREACHABLE = "PostgreSQL is unreachable"

_PARTS = {
    "api_keys": "copies of API keys",
    "bus": "NATS",
    "database": "PostgreSQL",
    "decider": "group commit",
    "intake_stream": "stream of usage",
    "loops": "background loops",
    "parking": "retry queue",
    "reader": "consumer of the log",
    "relay": "outbox relay",
}
"""Names for people; the keys are published by `/readyz`."""


def not_ready(health: Mapping[str, Any]) -> list[str]:
    """Returns one text for each part that is not ok, such as `NATS is unreachable`."""
    return [_text(_PARTS.get(key, key), state) for key, state in health.get("checks", {}).items() if state != "ok"]


def _text(part: str, state: str) -> str:
    match state:
        case "away":
            return f"{part} is unreachable"
        case "stopped":
            return f"{part} has stopped"
        case problem:
            return f"{part}: {problem}"
