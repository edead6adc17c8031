"""Facts about licences: who holds one, which machines use it, what was revoked, and the keys that sign them."""

from enum import StrEnum
from typing import Annotated

from paybill_licence import MAX_LICENCE_CHARS, MAX_SEATS, KeyId, Licence, LicenceId, PublicKey, Revision
from pydantic import Field, StringConstraints

from paybill_contracts.catalogue import Feature, PlanRef
from paybill_contracts.event import Event, Value
from paybill_contracts.values import Count, Digest, Key, SecretRef, SubscriptionId, TenantId, Text, Timestamp

Token = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=MAX_LICENCE_CHARS),
    Field(examples=[f"eyJh.{'A' * 86}"]),
]
"""A licence as its holder gets it. It is no secret: it lets nobody in anywhere (docs/licences.md)."""
Signature = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{86}$"), Field(examples=["A" * 86])]
Seats = Annotated[int, Field(ge=0, le=MAX_SEATS)]
ValidS = Annotated[int, Field(ge=1, le=366 * 86_400)]
"""How long a licence lasts, in seconds; at most a leap year, so that a key can retire."""


class Purpose(StrEnum):
    """Why a licence is signed."""

    ISSUE = "issue"
    RENEW = "renew"
    REISSUE = "reissue"


class RevocationOrigin(StrEnum):
    """Who takes a licence back."""

    OPERATOR = "operator"
    SUBSCRIPTION_ENDED = "subscription_ended"


class LicenceTerms(Value):
    """What a licence is to say about what was bought."""

    plan: PlanRef
    tier: Key
    features: tuple[Feature, ...]
    entitlements_hash: Digest
    seats: Seats


class LicenceFact(Event):
    """What all facts of a licence carry."""

    licence_id: LicenceId
    tenant_id: TenantId


class LicenceSigningRequested(
    LicenceFact, type="billing.licence_signing_requested", version=1, aggregate="licence", key="licence_id"
):
    """A licence with these terms is to be signed. fixed_seats: None when they follow the subscription's quantity."""

    subscription_id: SubscriptionId
    purpose: Purpose
    revision: Revision
    terms: LicenceTerms
    fixed_seats: Seats | None
    valid_s: ValidS
    issued_at: Timestamp
    expires_at: Timestamp


class LicenceSigned(LicenceFact):
    """A licence, and the text that its holder gets."""

    licence: Licence
    token: Token


class LicenceIssued(LicenceSigned, type="billing.licence_issued", version=1, aggregate="licence", key="licence_id"):
    """There is a licence, for the first time or again after it was revoked."""


class LicenceRenewed(LicenceSigned, type="billing.licence_renewed", version=1, aggregate="licence", key="licence_id"):
    """The same licence, for longer."""


class LicenceReissued(LicenceSigned, type="billing.licence_reissued", version=1, aggregate="licence", key="licence_id"):
    """A licence that says something else now: what was bought has changed."""


class LicenceSigningFailed(
    LicenceFact, type="billing.licence_signing_failed", version=1, aggregate="licence", key="licence_id"
):
    """This revision could not be signed; what was signed before is as good as it was. Tried again at `retry_at`."""

    revision: Revision
    reason: Text
    retry_at: Timestamp


class LicenceLapsing(LicenceFact, type="billing.licence_lapsing", version=1, aggregate="licence", key="licence_id"):
    """The subscription gives no access: the licence is not renewed, and runs out unless that changes."""


class LicenceRevoked(LicenceFact, type="billing.licence_revoked", version=1, aggregate="licence", key="licence_id"):
    """Revisions up to this one are taken back. last_expiry: when the last of them would have ended by itself."""

    revision: Revision
    last_expiry: Timestamp
    origin: RevocationOrigin
    reason: Text


class LicenceActivated(LicenceFact, type="billing.licence_activated", version=1, aggregate="licence", key="licence_id"):
    """A machine uses a seat, or was seen again. machine: its digest (`machine_digest`), never what identifies it."""

    machine: Digest
    seen_at: Timestamp
    seats_used: Count


class LicenceDeactivated(
    LicenceFact, type="billing.licence_deactivated", version=1, aggregate="licence", key="licence_id"
):
    """A machine gave its seat back."""

    machine: Digest
    seats_used: Count


class LicenceKeyRequested(
    Event, type="billing.licence_key_requested", version=1, aggregate="licence-keys", key="keyring"
):
    """A new signing key is to be made.

    compromised: the key in use is not to be trusted any more. licences_end: when the last licence that it has signed
    ends, None when it has signed none. valid_s: how long a licence lasts that is signed while the new key is made.
    """

    keyring: Key
    reason: Text
    compromised: bool
    licences_end: Timestamp | None
    valid_s: ValidS


class LicenceKeyPublished(
    Event, type="billing.licence_key_published", version=1, aggregate="licence-keys", key="keyring"
):
    """This key signs from now on. `secret` says where its private half is.

    replaces: the key that signed until now; it is trusted until `retire_at`.
    """

    keyring: Key
    kid: KeyId
    public_key: PublicKey
    secret: SecretRef
    published_at: Timestamp
    replaces: KeyId | None
    retire_at: Timestamp | None


class LicenceKeyRetired(Event, type="billing.licence_key_retired", version=1, aggregate="licence-keys", key="keyring"):
    """The key is published no more: the last licence that it signed has ended, or it is not to be trusted."""

    keyring: Key
    kid: KeyId
    reason: Text


class ListedRevocation(Value):
    """An entry of the list of revocations. until: from then on nobody needs it."""

    licence_id: LicenceId
    revision: Revision
    until: Timestamp


class LicenceRevocationsChanged(
    Event,
    type="billing.licence_revocations_changed",
    version=1,
    aggregate="licence-revocations",
    key="revocations",
):
    """The list of revocations gets this number and these entries beside those that are still needed."""

    revocations: Key
    number: Annotated[int, Field(ge=1, le=10**12)]
    added: tuple[ListedRevocation, ...]
    issued_at: Timestamp
    next_update: Timestamp


class LicenceRevocationsSigned(
    Event,
    type="billing.licence_revocations_signed",
    version=1,
    aggregate="licence-revocations",
    key="revocations",
):
    """The list with this number can be had: this is the signature over it."""

    revocations: Key
    number: Annotated[int, Field(ge=1, le=10**12)]
    kid: KeyId
    signature: Signature
