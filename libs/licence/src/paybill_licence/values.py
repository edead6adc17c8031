"""Constrained types of the claims: bounded text, keys, ids and aware UTC times."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

_HEX = "0123456789abcdef0123456789abcdef"


class Claims(BaseModel):
    """Frozen part of a signed text. A field that this version does not know is ignored."""

    # Validators are built at first use: they take memory in every process that imports this package.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, defer_build=True)


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("no such time in UTC") from None


Timestamp = Annotated[AwareDatetime, AfterValidator(_utc), Field(examples=["2026-11-22T18:00:00Z"])]
"""A point in time, always in UTC, so that equal times have equal text."""

Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$"),
    Field(examples=["some text"]),
]
"""One line for people: no control characters (PostgreSQL's jsonb cannot hold NUL), at most 500 characters."""

Key = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$"), Field(examples=["pro"])]
"""A name that people choose and machines compare: plan, region, feature, meter, publisher."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(examples=[_HEX + _HEX])]
"""SHA-256 of canonical JSON, lower-case hex."""

Count = Annotated[int, Field(ge=0, le=10**15)]
"""A whole number that is exact everywhere, JSON numbers in browsers included (below 2**53)."""

TenantId = Annotated[str, StringConstraints(pattern=r"^ten_[0-9a-f]{32}$"), Field(examples=["ten_" + _HEX])]
"""Opaque and permanent: it decides the partition, so it never contains a name."""

SubscriptionId = Annotated[str, StringConstraints(pattern=r"^sub_[0-9a-f]{32}$"), Field(examples=["sub_" + _HEX])]
