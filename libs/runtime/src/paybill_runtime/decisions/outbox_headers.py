"""Headers of facts in the outbox: a row stores only those that its other columns do not determine.

Two thirds of the bytes of the headers repeat the id, the type, the aggregate, the tenant and the time. Facts that were
recorded before this form have all headers in their row, and keep them.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import orjson
from paybill_contracts.envelope import time_text
from paybill_contracts.event import canonical
from paybill_contracts.signatures import SIGNATURE_HEADER


class FactColumns(NamedTuple):
    """The columns of a row that determine the other headers."""

    id: str
    aggregate: str
    revision: int
    tenant: str | None
    subject: str
    recorded_at: datetime


def compact(headers: Mapping[str, str]) -> str:
    """Returns what a row stores of the headers of a fact: actor, cause, correlation, trace and signature, as JSON.

    A correlation that equals the cause is null.
    """
    cause, correlation = headers["pb-cause"], headers["pb-correlation"]
    stored = [headers["pb-actor"], cause, None if correlation == cause else correlation, headers["traceparent"]]
    if SIGNATURE_HEADER in headers:
        stored.append(headers[SIGNATURE_HEADER])
    return canonical(stored).decode()


def complete(stored: str, columns: FactColumns) -> dict[str, str]:
    """Returns all headers of a row, in alphabetical order. Raises ValueError when they are malformed."""
    match orjson.loads(stored):
        case [str(actor), str(cause), str() | None as correlation, str(traceparent)]:
            return _completed(actor, cause, correlation or cause, traceparent, columns)
        case [str(actor), str(cause), str() | None as correlation, str(traceparent), str(signature)]:
            return _completed(actor, cause, correlation or cause, traceparent, columns, signature)
        case dict(headers) if set(map(type, headers.values())) == {str}:
            return headers
        case _:
            raise ValueError("its headers are neither in the short form nor an object of strings")


def _completed(
    actor: str, cause: str, correlation: str, traceparent: str, columns: FactColumns, signature: str | None = None
) -> dict[str, str]:
    type_, source, schema = _of_subject(columns.subject)
    headers = {
        "Content-Type": "application/json",
        "Nats-Msg-Id": columns.id,
        "ce-dataschema": schema,
        "ce-id": columns.id,
        "ce-source": source,
        "ce-specversion": "1.0",
        "ce-subject": columns.aggregate,
        "ce-time": time_text(columns.recorded_at),
        "ce-type": type_,
        "pb-actor": actor,
        "pb-aggregate": columns.aggregate,
        "pb-cause": cause,
        "pb-correlation": correlation,
        "pb-revision": str(columns.revision),
    }
    if signature is not None:
        headers[SIGNATURE_HEADER] = signature
    if columns.tenant is not None:
        headers["pb-tenant"] = columns.tenant
    headers["traceparent"] = traceparent
    return headers


@lru_cache(maxsize=1024)
def _of_subject(subject: str) -> tuple[str, str, str]:
    """Returns the type, the source and the schema of facts with this subject. Raises ValueError."""
    _, _, _, owner, event, version = subject.split(".")
    return f"{owner}.{event}", f"paybill/{owner}", f"paybill:{owner}.{event}:{version}"
