"""Events about licences: signing, activation on machines, revocation, and the signing keys."""

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
"""The text that the customer gets. It is no secret and no credential (docs/licences.md)."""
Signature = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{86}$"), Field(examples=["A" * 86])]
Seats = Annotated[int, Field(ge=0, le=MAX_SEATS)]
ValidS = Annotated[int, Field(ge=1, le=366 * 86_400)]
"""Validity period of a licence in seconds; at most a leap year, so that a key can retire."""


class Purpose(StrEnum):
    """Reason for signing a licence."""

    ISSUE = "issue"
    RENEW = "renew"
    REISSUE = "reissue"


class RevocationOrigin(StrEnum):
    """Origin of a revocation."""

    OPERATOR = "operator"
    SUBSCRIPTION_ENDED = "subscription_ended"


class LicenceTerms(Value):
    """Purchased terms that become claims of the licence."""

    plan: PlanRef
    tier: Key
    features: tuple[Feature, ...]
    entitlements_hash: Digest
    seats: Seats


class LicenceFact(Event):
    """Common fields of a licence's events."""

    licence_id: LicenceId
    tenant_id: TenantId


class LicenceSigningRequested(
    LicenceFact, type="billing.licence_signing_requested", version=1, aggregate="licence", key="licence_id"
):
    """A licence with these terms is to be signed. fixed_seats: None to follow the subscription's quantity."""

    subscription_id: SubscriptionId
    purpose: Purpose
    revision: Revision
    terms: LicenceTerms
    fixed_seats: Seats | None
    valid_s: ValidS
    issued_at: Timestamp
    expires_at: Timestamp


class LicenceSigned(LicenceFact):
    """The claims of a licence, and the signed text."""

    licence: Licence
    token: Token


class LicenceIssued(LicenceSigned, type="billing.licence_issued", version=1, aggregate="licence", key="licence_id"):
    """The licence was issued for the first time, or again after a revocation."""


class LicenceRenewed(LicenceSigned, type="billing.licence_renewed", version=1, aggregate="licence", key="licence_id"):
    """The same licence with a later expiry."""


class LicenceReissued(LicenceSigned, type="billing.licence_reissued", version=1, aggregate="licence", key="licence_id"):
    """The licence has new claims, because the purchased terms changed."""


class LicenceSigningFailed(
    LicenceFact, type="billing.licence_signing_failed", version=1, aggregate="licence", key="licence_id"
):
    """This revision could not be signed; earlier revisions stay valid. The next attempt is at `retry_at`."""

    revision: Revision
    reason: Text
    retry_at: Timestamp


class LicenceLapsing(LicenceFact, type="billing.licence_lapsing", version=1, aggregate="licence", key="licence_id"):
    """The subscription gives no access: the licence is not renewed and expires unless access returns."""


class LicenceRevoked(LicenceFact, type="billing.licence_revoked", version=1, aggregate="licence", key="licence_id"):
    """Revisions up to this one are revoked. last_expiry: the latest expiry among them."""

    revision: Revision
    last_expiry: Timestamp
    origin: RevocationOrigin
    reason: Text


class LicenceActivated(LicenceFact, type="billing.licence_activated", version=1, aggregate="licence", key="licence_id"):
    """A machine uses a seat, or was activated again. machine: its digest (`machine_digest`), never its identifier."""

    machine: Digest
    seen_at: Timestamp
    seats_used: Count


class LicenceDeactivated(
    LicenceFact, type="billing.licence_deactivated", version=1, aggregate="licence", key="licence_id"
):
    """A machine released its seat."""

    machine: Digest
    seats_used: Count


class LicenceKeyRequested(
    Event, type="billing.licence_key_requested", version=1, aggregate="licence-keys", key="keyring"
):
    """A new signing key is to be generated.

    compromised: the current key must not be trusted any more. licences_end: the latest expiry of a licence that it
    signed, None when it signed none. valid_s: validity of licences that are signed until the new key exists.
    """

    keyring: Key
    reason: Text
    compromised: bool
    licences_end: Timestamp | None
    valid_s: ValidS


class LicenceKeyPublished(
    Event, type="billing.licence_key_published", version=1, aggregate="licence-keys", key="keyring"
):
    """This key signs from now on. `secret` refers to its private half.

    replaces: the previous signing key; it is trusted until `retire_at`.
    """

    keyring: Key
    kid: KeyId
    public_key: PublicKey
    secret: SecretRef
    published_at: Timestamp
    replaces: KeyId | None
    retire_at: Timestamp | None


class LicenceKeyRetired(Event, type="billing.licence_key_retired", version=1, aggregate="licence-keys", key="keyring"):
    """The key is no longer published: the last licence that it signed has expired, or it is compromised."""

    keyring: Key
    kid: KeyId
    reason: Text


class ListedRevocation(Value):
    """An entry of the revocation list. until: the entry is dropped after this time."""

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
    """The revocation list gets this number and these entries in addition to those not yet dropped."""

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
    """The list with this number is signed and available."""

    revocations: Key
    number: Annotated[int, Field(ge=1, le=10**12)]
    kid: KeyId
    signature: Signature
