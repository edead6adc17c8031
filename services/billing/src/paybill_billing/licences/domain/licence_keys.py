"""Keys that sign licences: one is active, and replaced keys stay trusted until the last licence they signed expires."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, assert_never

from paybill_contracts.errors import DomainError
from paybill_contracts.licences import LicenceKeyPublished, LicenceKeyRequested, LicenceKeyRetired
from pydantic import Field

KEYRING = "licences"
"""The id of the only keyring: handlers need a constant key, because states are loaded before they run."""
MARGIN = timedelta(days=1)
"""The time for which a key is trusted after its last licence expires; exceeds clock differences and signing delays."""
COMPROMISED = "the key is compromised"

KeyEvent = LicenceKeyRequested | LicenceKeyPublished | LicenceKeyRetired


class KeyOrderError(DomainError):
    """A fact about keys precedes the request for the first key."""

    code = "licence_key_order"


class State(StrEnum):
    """Use of a key: ACTIVE signs, RETIRING only verifies, RETIRED is not trusted."""

    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key. secret: the reference of its private half, which is destroyed when the key stops signing."""

    kid: str
    public_key: str
    secret: str
    state: State
    published_at: datetime
    retire_at: datetime | None = None
    retired: str | None = None


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A pending request for a key; its fields are those of `LicenceKeyRequested`."""

    compromised: bool
    licences_end: datetime | None
    valid_s: int


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys, the retired ones included. due: when the next one retires."""

    id: str
    keys: tuple[SigningKey, ...] = ()
    request: Annotated[KeyRequest | None, Field(alias="wanted")] = None
    due: datetime | None = None


def active(keyring: Keyring | None) -> SigningKey | None:
    """Returns the key that signs; None until there is one."""
    keys = keyring.keys if keyring is not None else ()
    return next((key for key in keys if key.state is State.ACTIVE), None)


def trusted(keyring: Keyring | None) -> list[SigningKey]:
    """Returns the published keys, the active one first."""
    keys = keyring.keys if keyring is not None else ()
    return [key for state in (State.ACTIVE, State.RETIRING) for key in keys if key.state is state]


def request_first(keyring: Keyring | None, valid_s: int) -> list[KeyEvent]:
    """Requests the first key unless one is active; repeated calls retry a generation that failed permanently."""
    if active(keyring) is not None:
        return []
    return rotate(keyring, "there is none yet", compromised=False, licences_end=None, valid_s=valid_s)


def rotate(
    _: Keyring | None, reason: str, *, compromised: bool, licences_end: datetime | None, valid_s: int
) -> list[KeyEvent]:
    """Requests a new key. compromised: the active key is no longer trusted from now on, nor is anything that it signed.

    licences_end: the expiry of the last licence. valid_s: the validity of licences signed from now on.
    """
    return [
        LicenceKeyRequested(
            keyring=KEYRING, reason=reason, compromised=compromised, licences_end=licences_end, valid_s=valid_s
        )
    ]


def published(keyring: Keyring, *, kid: str, public_key: str, secret: str, now: datetime) -> list[KeyEvent]:
    """Activates a generated key. The key before it stays trusted until the last licence that it signed expires."""
    if keyring.request is None or any(key.kid == kid for key in keyring.keys):
        return []
    request, before = keyring.request, active(keyring)
    last_expiry = now + timedelta(seconds=request.valid_s)
    retire_at = max(last_expiry, request.licences_end or last_expiry) + MARGIN
    events: list[KeyEvent] = [
        LicenceKeyPublished(
            keyring=KEYRING,
            kid=kid,
            public_key=public_key,
            secret=secret,
            published_at=now,
            replaces=before.kid if before is not None else None,
            retire_at=retire_at if before is not None else None,
        )
    ]
    if before is not None and request.compromised:
        events.append(LicenceKeyRetired(keyring=KEYRING, kid=before.kid, reason=COMPROMISED))
    return events


def on_time(keyring: Keyring, now: datetime) -> list[KeyEvent]:
    """Retires the keys whose last licence has expired."""
    return [
        LicenceKeyRetired(keyring=KEYRING, kid=key.kid, reason="the last licence that it signed has expired")
        for key in keyring.keys
        if key.state is State.RETIRING and key.retire_at is not None and key.retire_at <= now
    ]


def evolve(keyring: Keyring | None, event: KeyEvent) -> Keyring:
    """Returns the keys after `event`; only a request may come first."""
    if isinstance(event, LicenceKeyRequested):
        request = KeyRequest(event.compromised, event.licences_end, event.valid_s)
        return replace(keyring or Keyring(id=event.keyring), request=request)
    if keyring is None:
        raise KeyOrderError(f"{event.TYPE} precedes the request for a key")
    match event:
        case LicenceKeyPublished():
            added = SigningKey(event.kid, event.public_key, event.secret, State.ACTIVE, event.published_at)
            others = tuple(
                replace(key, state=State.RETIRING, retire_at=event.retire_at) if key.kid == event.replaces else key
                for key in keyring.keys
            )
            return _with(replace(keyring, request=None), (*others, added))
        case LicenceKeyRetired():
            keys = tuple(
                replace(key, state=State.RETIRED, retired=event.reason) if key.kid == event.kid else key
                for key in keyring.keys
            )
            return _with(keyring, keys)
        case _:
            assert_never(event)


def _with(keyring: Keyring, keys: tuple[SigningKey, ...]) -> Keyring:
    times = [key.retire_at for key in keys if key.state is State.RETIRING and key.retire_at is not None]
    return replace(keyring, keys=keys, due=min(times, default=None))
