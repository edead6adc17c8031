"""Licences: one per subscription, renewed while the subscription gives access, reissued when its terms change."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import assert_never

from paybill_contracts.billing import Subscription
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.licences import (
    LicenceActivated,
    LicenceDeactivated,
    LicenceIssued,
    LicenceLapsing,
    LicenceReissued,
    LicenceRenewed,
    LicenceRevoked,
    LicenceSigningFailed,
    LicenceSigningRequested,
    LicenceTerms,
    Purpose,
    RevocationOrigin,
)
from paybill_licence import ALGORITHM, MAX_SEATS
from paybill_licence import Licence as Claims

from paybill_billing.entitlements.domain.entitlements import Entitlements

LicenceEvent = (
    LicenceSigningRequested
    | LicenceIssued
    | LicenceRenewed
    | LicenceReissued
    | LicenceSigningFailed
    | LicenceLapsing
    | LicenceRevoked
    | LicenceActivated
    | LicenceDeactivated
)

_SIGNED: Mapping[Purpose, type[LicenceIssued | LicenceRenewed | LicenceReissued]] = {
    Purpose.ISSUE: LicenceIssued,
    Purpose.RENEW: LicenceRenewed,
    Purpose.REISSUE: LicenceReissued,
}

RETRY = timedelta(hours=1)
"""The delay after a failed signature. The earlier licence is still valid for days."""


class LicenceNotFoundError(NotFoundError):
    code = "licence_not_found"


class LicenceOrderError(DomainError):
    """A fact about the licence precedes the request for it."""

    code = "licence_order"


class NoAccessError(ConflictError):
    """The subscription gives no access, so no licence is issued."""

    code = "subscription_gives_no_access"


class TooManySeatsError(ConflictError):
    """The subscription has more seats than a licence can have."""

    code = "too_many_seats"


class LicenceTakenBackError(ConflictError):
    """The licence is revoked; it has to be issued again."""

    code = "licence_taken_back"


class Status(StrEnum):
    """Status of a licence. LAPSING: valid until it expires, and not renewed."""

    SIGNING = "signing"
    IN_FORCE = "in_force"
    LAPSING = "lapsing"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Pending:
    """The requested revision, whose signature is pending or failed."""

    purpose: Purpose
    revision: int
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Activation:
    """A machine that uses a seat, by its digest."""

    machine: str
    activated_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Licence:
    """The licence of a subscription.

    revision, terms: of the newest request. fixed_seats: None when seats follow the subscription's quantity.
    last_expiry: the latest expiry of all requests. claims, token: the newest signed revision. due: the time of the
    next renewal or retry.
    """

    id: str
    tenant_id: str
    subscription_id: str
    status: Status
    revision: int
    terms: LicenceTerms
    fixed_seats: int | None
    valid_s: int
    last_expiry: datetime
    pending: Pending | None = None
    claims: Claims | None = None
    token: str | None = None
    activations: tuple[Activation, ...] = ()
    failure: str | None = None
    revoked: str | None = None
    due: datetime | None = None


def licence_id(subscription_id: str) -> str:
    """Derives the id from the subscription's, so that handlers of its facts can compute it."""
    return "lic_" + sha256(f"licence/{subscription_id}".encode()).hexdigest()[:32]


def issue(
    licence: Licence | None,
    entitlements: Entitlements,
    subscription: Subscription,
    *,
    seats: int | None,
    valid_s: int,
    now: datetime,
) -> list[LicenceEvent]:
    """Issues a licence for the subscription, or reissues it with other seats or another validity.

    seats: None to follow the subscription's quantity. Raises NoAccessError, TooManySeatsError.
    """
    if not entitlements.allows_access:
        raise NoAccessError(
            f"{subscription.subscription_id} is {subscription.access} and gives no access; issue the licence after it "
            "is paid"
        )
    if seats is None and has_too_many_seats(subscription):
        raise TooManySeatsError(
            f"a licence has at most {MAX_SEATS} seats, and {subscription.subscription_id} has {subscription.quantity}: "
            "issue it with --seats, or split the subscription"
        )
    terms = _terms(entitlements, subscription, seats)
    if licence is not None and not_revoked(licence):
        same = (licence.fixed_seats, licence.valid_s, licence.terms) == (seats, valid_s, terms)
        if same and licence.status is not Status.LAPSING and licence.failure is None:
            return []
    id_ = licence_id(subscription.subscription_id)
    base = licence or Licence(
        id=id_,
        tenant_id=subscription.tenant_id,
        subscription_id=subscription.subscription_id,
        status=Status.SIGNING,
        revision=0,
        terms=terms,
        fixed_seats=seats,
        valid_s=valid_s,
        last_expiry=now,
    )
    return [_request(replace(base, fixed_seats=seats, valid_s=valid_s), Purpose.REISSUE, terms, now)]


def has_too_many_seats(subscription: Subscription) -> bool:
    """Returns True when the subscription's quantity exceeds the seats that a licence can have."""
    return subscription.quantity > MAX_SEATS


def lacks_seats(licence: Licence | None, subscription: Subscription | None) -> bool:
    """Returns True when a licence that follows the subscription's quantity has fewer seats than it."""
    follows = licence is not None and not_revoked(licence) and licence.fixed_seats is None
    return follows and subscription is not None and has_too_many_seats(subscription)


def renew(licence: Licence, now: datetime) -> list[LicenceEvent]:
    """Renews the licence before it is due. Raises LicenceTakenBackError, NoAccessError."""
    match licence.status:
        case Status.SIGNING | Status.IN_FORCE:
            if licence.pending is not None and licence.failure is None:
                return []
            return [_request(licence, Purpose.RENEW, licence.terms, now)]
        case Status.LAPSING:
            raise NoAccessError(
                f"the subscription of {licence.id} gives no access; the licence is reissued when access returns"
            )
        case Status.REVOKED:
            raise LicenceTakenBackError(f"{licence.id} was revoked ({licence.revoked}); issue it again")
        case _:
            assert_never(licence.status)


def on_time(licence: Licence, now: datetime) -> list[LicenceEvent]:
    """Renews the licence after two thirds of its validity, or retries a failed signature."""
    if licence.due is None or now < licence.due or licence.status not in {Status.SIGNING, Status.IN_FORCE}:
        return []
    return [_request(licence, Purpose.RENEW, licence.terms, now)]


def on_subscription_changed(
    licence: Licence | None, entitlements: Entitlements | None, subscription: Subscription | None, now: datetime
) -> list[LicenceEvent]:
    """Reissues the licence when its terms changed; stops its renewal while the subscription gives no access."""
    if licence is None or not not_revoked(licence):
        return []
    if (
        entitlements is None
        or subscription is None
        or entitlements.subscription_id != licence.subscription_id
        or not entitlements.allows_access
    ):
        event = LicenceLapsing(licence_id=licence.id, tenant_id=licence.tenant_id)
        return [] if licence.status is Status.LAPSING else [event]
    terms = _terms(entitlements, subscription, licence.fixed_seats)
    if terms == licence.terms and licence.status is not Status.LAPSING:
        return []
    return [_request(licence, Purpose.REISSUE, terms, now)]


def revoke(licence: Licence | None, reason: str, origin: RevocationOrigin) -> list[LicenceEvent]:
    """Revokes all revisions signed so far, and releases all seats."""
    if licence is None or not not_revoked(licence):
        return []
    return [
        LicenceRevoked(
            licence_id=licence.id,
            tenant_id=licence.tenant_id,
            revision=licence.revision,
            last_expiry=licence.last_expiry,
            origin=origin,
            reason=reason,
        )
    ]


def claims_of(licence: Licence, revision: int, kid: str) -> Claims | None:
    """Returns the claims to sign with the key `kid`; None when this revision is not pending."""
    pending = licence.pending
    if pending is None or pending.revision != revision:
        return None
    return Claims(
        alg=ALGORITHM,
        kid=kid,
        licence_id=licence.id,
        tenant_id=licence.tenant_id,
        subscription_id=licence.subscription_id,
        plan=licence.terms.plan,
        tier=licence.terms.tier,
        features=licence.terms.features,
        entitlements_hash=licence.terms.entitlements_hash,
        seats=licence.terms.seats,
        issued_at=pending.issued_at,
        not_before=pending.issued_at,
        expires_at=pending.expires_at,
        revision=revision,
    )


def signed(licence: Licence, claims: Claims, token: str) -> list[LicenceEvent]:
    """Records the signature, unless another revision has replaced this one."""
    if licence.pending is None or claims_of(licence, claims.revision, claims.kid) != claims:
        return []
    kind = _SIGNED[licence.pending.purpose]
    return [kind(licence_id=licence.id, tenant_id=licence.tenant_id, licence=claims, token=token)]


def signing_failed(licence: Licence, revision: int, reason: str, now: datetime) -> list[LicenceEvent]:
    """Records a failed signature and schedules the retry."""
    if licence.pending is None or licence.pending.revision != revision:
        return []
    return [
        LicenceSigningFailed(
            licence_id=licence.id, tenant_id=licence.tenant_id, revision=revision, reason=reason, retry_at=now + RETRY
        )
    ]


def evolve(licence: Licence | None, event: LicenceEvent) -> Licence:
    """Returns the licence after `event`; only a request to sign it may come first."""
    if isinstance(event, LicenceSigningRequested):
        return _requested(licence, event)
    if licence is None:
        raise LicenceOrderError(f"{event.TYPE} precedes the request for {event.licence_id}")
    match event:
        case LicenceIssued() | LicenceRenewed() | LicenceReissued():
            return replace(
                licence,
                status=Status.IN_FORCE,
                pending=None,
                failure=None,
                claims=event.licence,
                token=event.token,
                due=event.licence.renew_at,
            )
        case LicenceSigningFailed():
            return replace(licence, failure=event.reason, due=event.retry_at)
        case LicenceLapsing():
            return replace(licence, status=Status.LAPSING, pending=None, failure=None, due=None)
        case LicenceRevoked():
            return replace(
                licence,
                status=Status.REVOKED,
                pending=None,
                failure=None,
                claims=None,
                token=None,
                activations=(),
                revoked=event.reason,
                due=None,
            )
        case LicenceActivated():
            earlier = next((each for each in licence.activations if each.machine == event.machine), None)
            since = earlier.activated_at if earlier is not None else event.seen_at
            others = tuple(each for each in licence.activations if each.machine != event.machine)
            return replace(licence, activations=(*others, Activation(event.machine, since, event.seen_at)))
        case LicenceDeactivated():
            kept = tuple(each for each in licence.activations if each.machine != event.machine)
            return replace(licence, activations=kept)
        case _:
            assert_never(event)


def _requested(licence: Licence | None, event: LicenceSigningRequested) -> Licence:
    claims = licence.claims if licence is not None else None
    earlier = licence.last_expiry if licence is not None else event.expires_at
    return Licence(
        id=event.licence_id,
        tenant_id=event.tenant_id,
        subscription_id=event.subscription_id,
        status=Status.IN_FORCE if claims is not None else Status.SIGNING,
        revision=event.revision,
        terms=event.terms,
        fixed_seats=event.fixed_seats,
        valid_s=event.valid_s,
        last_expiry=max(event.expires_at, earlier),
        pending=Pending(event.purpose, event.revision, event.issued_at, event.expires_at),
        claims=claims,
        token=licence.token if licence is not None else None,
        activations=licence.activations if licence is not None else (),
    )


def _request(licence: Licence, purpose: Purpose, terms: LicenceTerms, now: datetime) -> LicenceSigningRequested:
    """Requests the next revision. Until a revision is signed, the purpose is always ISSUE."""
    issued_at = now.replace(microsecond=0)
    return LicenceSigningRequested(
        licence_id=licence.id,
        tenant_id=licence.tenant_id,
        subscription_id=licence.subscription_id,
        purpose=Purpose.ISSUE if licence.claims is None else purpose,
        revision=licence.revision + 1,
        terms=terms,
        fixed_seats=licence.fixed_seats,
        valid_s=licence.valid_s,
        issued_at=issued_at,
        expires_at=issued_at + timedelta(seconds=licence.valid_s),
    )


def _terms(entitlements: Entitlements, subscription: Subscription, seats: int | None) -> LicenceTerms:
    return LicenceTerms(
        plan=entitlements.plan,
        tier=entitlements.tier,
        features=entitlements.features,
        entitlements_hash=entitlements.entitlements_hash,
        seats=min(subscription.quantity, MAX_SEATS) if seats is None else seats,
    )


def not_revoked(licence: Licence) -> bool:
    """Returns True unless the licence is revoked."""
    return licence.status is not Status.REVOKED
