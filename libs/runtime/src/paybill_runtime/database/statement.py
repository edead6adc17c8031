"""Builder of one SQL statement that checks preconditions and changes many rows, atomically and in one round trip."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from paybill_runtime.database.arrays import texts
from paybill_runtime.database.pool import Connection, fetch_rows
from paybill_runtime.errors import LEASE_LOST

STATE_CHANGED = "40001"
"""The SQLSTATE of a statement that lost against another transaction (serialization_failure)."""
NOTIFY_CHANNEL = "paybill_jobs"
_NOTIFY = f"pg_notify('{NOTIFY_CHANNEL}', '')"


@dataclass(slots=True)
class Statement:
    """Collects clauses, preconditions and values. Equal shapes give equal text, so that PostgreSQL plans it once.

    is_held: true for a lease of this process, whose relay and worker are woken after the commit if `requires_jobs`.
    """

    is_held: Callable[[str], bool] = lambda _: False
    clauses: list[str] = field(default_factory=list)
    preconditions: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    requires_jobs: bool = False

    def columns(self, **columns: tuple[str, Sequence[Any]]) -> str:
        """Returns `unnest` of these columns, each a type and its values, as the table `n`, with the row's `place`."""
        arrays = ", ".join(f"{self.texts(values)}::{type_}[]" for type_, values in columns.values())
        return f"unnest({arrays}) WITH ORDINALITY AS n ({', '.join(columns)}, place)"

    def texts(self, values: Iterable[Any]) -> str:
        """Returns the placeholder of an array of texts, which PostgreSQL casts to the type that a statement names."""
        return f"{self.value(texts(values))}::text[]"

    def value(self, value: Any) -> str:
        """Returns the placeholder of one value."""
        self.values.append(value)
        return f"${len(self.values)}"

    def require(self, rows: str, count: int, sqlstate: str) -> None:
        """Makes the statement fail with `sqlstate` unless the query `rows` returns `count` rows.

        A query with FOR SHARE keeps them unchanged until the transaction ends.
        """
        found = f"(SELECT count(*) FROM ({rows}) AS r) = {self.value(count)}::bigint"  # noqa: S608  # only our own text
        self.preconditions.append(f"chassis.insist({found}, {self.value(sqlstate)})")

    def fence(self, leases: Collection[tuple[str, int]]) -> None:
        """Makes the statement fail with LeaseLostError unless these leases (name, epoch) are held until the end."""
        if leases:
            names, epochs = zip(*sorted(leases), strict=True)
            claimed = self.columns(name=("text", names), epoch=("bigint", epochs))
            rows = f"SELECT FROM chassis.lease JOIN {claimed} USING (name, epoch) ORDER BY name FOR SHARE OF lease"
            self.require(rows, len(leases), LEASE_LOST)

    def wake_owner(self, lease: str) -> None:
        """Wakes the owner of a lease when the statement commits: directly or, if it is another process, by a notice."""
        self.requires_jobs = True
        if not self.is_held(lease):
            self.notify()

    def notify(self) -> None:
        """Wakes relay and worker of all replicas when the statement commits: it gives work to one of them."""
        self.requires_jobs = True
        if _NOTIFY not in self.preconditions:
            self.preconditions.append(_NOTIFY)

    def add(self, change: str) -> str:
        """Adds a change; returns the name of its RETURNING rows."""
        name = f"c{len(self.clauses)}"
        self.clauses.append(f"{name} AS ({change})")
        return name

    async def execute(self, connection: Connection) -> None:
        """Executes the changes atomically, unless a precondition fails.

        Raises ValueError when a value is bound and not used, which is a fault of the code that built the statement.
        """
        changes = f"WITH {', '.join(self.clauses)} " if self.clauses else ""
        checks = ", ".join(self.preconditions) or "1"
        text = f"{changes}SELECT {checks}"
        if unused := _unused(text, len(self.values)):
            raise ValueError(f"the statement does not use the values of {', '.join(unused)}: {text}")
        await fetch_rows(connection, text, *self.values)


@lru_cache(maxsize=1024)
def _unused(text: str, count: int) -> list[str]:
    """Returns the placeholders from $1 to $`count` that are not in the text. Equal shapes are searched once."""
    used = set(re.findall(r"\$\d+", text))
    return [name for number in range(1, count + 1) if (name := f"${number}") not in used]


ExtraStatements: TypeAlias = Callable[[Statement], None]
"""Adds changes of tables that hold no state to the statement that writes a decision."""
