"""Sizes of facts with rows: one that the bus cannot carry is refused before anything is recorded."""

from collections.abc import Sequence

from paybill_contracts.agent_runs import ActionDone, ActionIntended, CallApprovalRequested
from paybill_contracts.envelope import MAX_PAYLOAD_BYTES
from paybill_contracts.event import encode

from paybill_agent_gateway.domain.answers import PlainFields
from paybill_agent_gateway.domain.approvals import Image
from paybill_agent_gateway.domain.refusals import RowsTooLargeError

KEY_BYTES = 8 * 1024
"""Space for what the outcome of a write has beside its arguments: the key of a row, which PostgreSQL limits."""
_CHARACTER_BYTES, _VALUE_BYTES = 9, 250
"""Greatest size of a character in JSON that is sealed, and of the rest of a sealed value with its name."""


def require_read_fits(
    step: str, arguments: PlainFields, rows: Sequence[PlainFields], event: ActionDone | None = None
) -> None:
    """Raises RowsTooLargeError for rows that do not fit into a fact; without `event`, before they are sealed."""
    if size := _excess([arguments, *rows], event):
        raise _too_large(f"the rows of {step}", size, len(rows), rows)


def require_request_fits(
    step: str, arguments: PlainFields, images: Sequence[Image], event: CallApprovalRequested | None = None
) -> None:
    """Raises RowsTooLargeError for a request that does not fit into a fact; without `event`, before it is sealed."""
    rows = [row for image in images for row in (image.before, image.after) if row is not None]
    if size := _excess([arguments, *rows], event):
        raise _too_large(f"the rows before and after {step}, which an approver sees,", size, len(images), rows)


def require_outcome_fits(event: ActionIntended, arguments: PlainFields) -> None:
    """Raises RowsTooLargeError for a write whose outcome could not be recorded: it has the arguments, and one row."""
    if not _is_small([arguments]) and (size := 2 * len(encode(event)) + KEY_BYTES) > MAX_PAYLOAD_BYTES:
        raise _too_large(f"the arguments of {event.step} and its row", size, 1, [arguments])


def _excess(rows: Sequence[PlainFields], event: ActionDone | CallApprovalRequested | None) -> int:
    """Returns the size of rows, or of their fact, that is too large; 0 when it is not."""
    if _is_small(rows):
        return 0
    size = _characters(rows) if event is None else len(encode(event))
    return size if size > MAX_PAYLOAD_BYTES else 0


def _is_small(rows: Sequence[PlainFields]) -> bool:
    values = sum(len(row) for row in rows)
    return _characters(rows) * _CHARACTER_BYTES + (values + 10) * _VALUE_BYTES <= MAX_PAYLOAD_BYTES


def _characters(rows: Sequence[PlainFields]) -> int:
    return sum(len(value) for row in rows for value in row.values() if isinstance(value, str))


def _too_large(what: str, size: int, count: int, rows: Sequence[PlainFields]) -> RowsTooLargeError:
    columns = max((len(row) for row in rows), default=0)
    return RowsTooLargeError(
        f"{what} have {size} bytes: {count} rows x {columns} columns; {MAX_PAYLOAD_BYTES} bytes are allowed: "
        "the workflow needs a lower limit of rows, or fewer columns"
    )
