"""The keys that sign licences, one at a time; those that did stay trusted until what they signed has ended."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from paybill_contracts.errors import DomainError
from paybill_contracts.licences import LicenceKeyPublished, LicenceKeyRequested, LicenceKeyRetired

KEYRING = "licences"
"""There is one; whoever signs must know what to load before it has read anything."""
MARGIN = timedelta(days=1)
"""How much longer than the last licence a key is trusted: more than clocks differ, and than signing takes."""

KeyEvent = LicenceKeyRequested | LicenceKeyPublished | LicenceKeyRetired


class KeyOrderError(DomainError):
    """A fact came before the one that asks for the first key."""

    code = "licence_key_order"


class State(StrEnum):
    """What a key is for: to sign, to verify what it signed, nothing any more."""

    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The public half of a key, and where the private one is until it stops signing."""

    kid: str
    public_key: str
    secret: str
    state: State
    published_at: datetime
    retire_at: datetime | None = None
    retired: str | None = None


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A key that is to be made: see LicenceKeyRequested."""

    compromised: bool
    licences_end: datetime | None
    valid_s: int


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys that there ever were. due: when the next one retires."""

    id: str
    keys: tuple[SigningKey, ...] = ()
    wanted: KeyRequest | None = None
    due: datetime | None = None


def active(keyring: Keyring | None) -> SigningKey | None:
    """The key that signs; None until there is one."""
    keys = keyring.keys if keyring is not None else ()
    return next((key for key in keys if key.state is State.ACTIVE), None)


def trusted(keyring: Keyring | None) -> list[SigningKey]:
    """The keys that are published, the one that signs first."""
    keys = keyring.keys if keyring is not None else ()
    return [key for state in (State.ACTIVE, State.RETIRING) for key in keys if key.state is state]


def request_first(keyring: Keyring | None, valid_s: int) -> list[KeyEvent]:
    """Ask for the first key, once; for another one when making it was given up."""
    if active(keyring) is not None:
        return []
    return rotate(keyring, "there is none yet", compromised=False, licences_end=None, valid_s=valid_s)


def rotate(
    _: Keyring | None, reason: str, *, compromised: bool, licences_end: datetime | None, valid_s: int
) -> list[KeyEvent]:
    """Ask for a new key. compromised: the one in use is to be trusted no more, whatever it has signed.

    licences_end, valid_s: when the last licence ends, and how long one lasts that is signed from now on.
    """
    return [
        LicenceKeyRequested(
            keyring=KEYRING, reason=reason, compromised=compromised, licences_end=licences_end, valid_s=valid_s
        )
    ]


def published(keyring: Keyring, *, kid: str, public_key: str, secret: str, now: datetime) -> list[KeyEvent]:
    """A key is made: from now on it signs. The one before is trusted as long as what it signed may be in use."""
    if keyring.wanted is None or any(key.kid == kid for key in keyring.keys):
        return []
    wanted, before = keyring.wanted, active(keyring)
    signs_until = now + timedelta(seconds=wanted.valid_s)
    retire_at = max(signs_until, wanted.licences_end or signs_until) + MARGIN
    said: list[KeyEvent] = [
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
    if before is not None and wanted.compromised:
        said.append(LicenceKeyRetired(keyring=KEYRING, kid=before.kid, reason="it is not to be trusted any more"))
    return said


def on_time(keyring: Keyring, now: datetime) -> list[KeyEvent]:
    """What these keys signed has ended."""
    return [
        LicenceKeyRetired(keyring=KEYRING, kid=key.kid, reason="the last licence that it signed has ended")
        for key in keyring.keys
        if key.state is State.RETIRING and key.retire_at is not None and key.retire_at <= now
    ]


def evolve(keyring: Keyring | None, event: KeyEvent) -> Keyring:
    """The keys after `event`; only a request may come first."""
    if isinstance(event, LicenceKeyRequested):
        wanted = KeyRequest(event.compromised, event.licences_end, event.valid_s)
        return replace(keyring or Keyring(id=event.keyring), wanted=wanted)
    if keyring is None:
        raise KeyOrderError(f"{event.TYPE} came before a key was asked for")
    match event:
        case LicenceKeyPublished():
            made = SigningKey(event.kid, event.public_key, event.secret, State.ACTIVE, event.published_at)
            kept = tuple(
                replace(key, state=State.RETIRING, retire_at=event.retire_at) if key.kid == event.replaces else key
                for key in keyring.keys
            )
            return _with(replace(keyring, wanted=None), (*kept, made))
        case LicenceKeyRetired():
            kept = tuple(
                replace(key, state=State.RETIRED, retired=event.reason) if key.kid == event.kid else key
                for key in keyring.keys
            )
            return _with(keyring, kept)
        case _:
            assert_never(event)


def _with(keyring: Keyring, keys: tuple[SigningKey, ...]) -> Keyring:
    ends = [key.retire_at for key in keys if key.state is State.RETIRING and key.retire_at is not None]
    return replace(keyring, keys=keys, due=min(ends, default=None))
