"""Constrained types of event fields: bounded text, keys, ids and aware UTC times.

Some of them are also claims of a licence; these are defined in `paybill_licence`, which customers install alone.
"""

import re
from typing import Annotated

from paybill_licence.values import Count, Digest, Key, SubscriptionId, TenantId, Text, Timestamp
from pydantic import AfterValidator, Field, StringConstraints

__all__ = [
    "Count",
    "Digest",
    "EnvironmentId",
    "EventId",
    "Key",
    "ProviderId",
    "SecretRef",
    "Slug",
    "SubscriptionId",
    "TenantId",
    "Text",
    "Timestamp",
    "Url",
]

_HEX = "0123456789abcdef0123456789abcdef"


Slug = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"), Field(examples=["acme"])]
"""A tenant's name in URLs and database roles: 1 to 40 of a-z, 0-9 and dash, starting with a letter."""

EventId = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"),
    Field(examples=["0190a5b0-0000-7000-8000-000000000001"]),
]
"""A UUID (version 7 when Paybill generates it), lower case: RFC 9562."""

EnvironmentId = Annotated[str, StringConstraints(pattern=r"^env_[0-9a-f]{32}$"), Field(examples=["env_" + _HEX])]

ProviderId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_\-.:/]{1,255}$"), Field(examples=["cus_Q1w2e3"])]
"""An object's id at a billing provider or cloud: only its length and characters are checked."""

SecretRef = Annotated[
    str,
    StringConstraints(pattern=r"^secret://[a-z0-9_\-/]{1,200}\?v=[1-9][0-9]{0,8}$"),
    Field(examples=["secret://provisioner/env/database?v=1"]),
]
"""Reference to a secret, never its value."""

_URL = r"^https?://[^\s\x00-\x1f\x7f]{1,2000}$"


def _url(value: str) -> str:
    # In Python: pydantic's regex engine expands 2,000 repetitions to 4 MB in each type with such a field.
    if re.fullmatch(_URL, value) is None:
        raise ValueError("this is no http or https URL of at most 2000 characters")
    return value


Url = Annotated[
    str, AfterValidator(_url), Field(examples=["https://pay.example/c/1"], json_schema_extra={"pattern": _URL})
]
