"""Claims of a licence and of a revocation list: the JSON that is signed."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from paybill_licence.values import Claims, Count, Digest, Key, SubscriptionId, TenantId, Text, Timestamp

ALGORITHM: Literal["Ed25519"] = "Ed25519"
"""The only one (RFC 9864)."""
TOLERANCE = timedelta(minutes=5)
"""Accepted difference between the clocks of issuer and verifier, in both directions."""
MAX_SEATS = 10_000
MAX_REVOCATIONS = 10_000

LicenceId = Annotated[
    str,
    StringConstraints(pattern=r"^lic_[0-9a-f]{32}$"),
    Field(examples=["lic_0123456789abcdef0123456789abcdef"]),
]
KeyId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$"), Field(examples=["A" * 43])]
"""Thumbprint of a public key (RFC 7638), so that an id can never name another key."""
PublicKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$"), Field(examples=["A" * 43])]
"""32 bytes of an Ed25519 public key, base64url: the `x` of its JWK."""
Revision = Annotated[int, Field(ge=1, le=10**9)]


class BooleanFeature(Claims):
    """On or off."""

    kind: Literal["boolean"]
    key: Key
    enabled: bool


class StaticFeature(Claims):
    """A fixed value, such as a support level."""

    kind: Literal["static"]
    key: Key
    value: Text


class LimitFeature(Claims):
    """At most `limit` of something."""

    kind: Literal["limit"]
    key: Key
    limit: Count


class MeteredFeature(Claims):
    """Usage that `meter` counts; `included` units cost nothing extra, and no more than `quota` may be used.

    quota: in each window of the meter; None for no bound but the price.
    """

    kind: Literal["metered"]
    key: Key
    meter: Key
    included: Count
    quota: Count | None = None


Feature = Annotated[BooleanFeature | StaticFeature | LimitFeature | MeteredFeature, Field(discriminator="kind")]


class PlanRef(Claims):
    """The plan version that a subscription pins, in the catalogue with this hash."""

    plan: Key
    version: Count
    catalogue_hash: Digest


class Licence(Claims):
    """Claims of a licence. A field that is added later is optional, and is not signed when it has its default.

    plan, tier, features: the effective entitlements whose hash is `entitlements_hash`. seats: machines that may be
    activated at once. revision: of this licence; the highest one counts.
    """

    alg: Literal["Ed25519"]
    kid: KeyId
    licence_id: LicenceId
    tenant_id: TenantId
    subscription_id: SubscriptionId
    plan: PlanRef
    tier: Key
    features: tuple[Feature, ...]
    entitlements_hash: Digest
    seats: Annotated[int, Field(ge=0, le=MAX_SEATS)]
    issued_at: Timestamp
    not_before: Timestamp
    expires_at: Timestamp
    revision: Revision

    @property
    def renew_at(self) -> datetime:
        """Time from which a newer licence should be fetched: after two thirds of the validity period."""
        return self.issued_at + (self.expires_at - self.issued_at) * 2 / 3


class Revocation(Claims):
    """Revokes the revisions of a licence up to this one; a later revision is valid again."""

    licence_id: LicenceId
    revision: Revision


class Revocations(Claims):
    """Claims of a revocation list. number: grows with every list. next_update: a newer list exists by then."""

    alg: Literal["Ed25519"]
    kid: KeyId
    number: Annotated[int, Field(ge=1, le=10**12)]
    issued_at: Timestamp
    next_update: Timestamp
    revoked: Annotated[tuple[Revocation, ...], Field(max_length=MAX_REVOCATIONS)]

    def covers(self, licence_id: str, revision: int) -> bool:
        """Returns True when this revision of the licence is revoked."""
        return any(each.licence_id == licence_id and revision <= each.revision for each in self.revoked)

    def is_stale(self, now: datetime) -> bool:
        """Returns True when a newer list is overdue. The entries of a stale list stay revoked."""
        return now > self.next_update + TOLERANCE
