"""Arrays as parameters of statements: always of texts, which PostgreSQL casts to the type that a statement names.

The driver knows `text[]`, and no other array: on each new connection it queries the catalogue when a statement uses
one, which takes PostgreSQL 20 ms, as much as all the other work for a service that starts.
"""

from collections.abc import Iterable
from typing import Any


def texts(values: Iterable[Any]) -> list[str | None]:
    """Returns the values as PostgreSQL reads them: texts, numbers, identifiers and times with their zone."""
    return [None if value is None else str(value) for value in values]
