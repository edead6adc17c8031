"""Signing keys of the services: certificates, and the keys that are valid at a sequence of the stream.

A key counts only when its certificate is signed by the previous key of the same service, or by the steward's root key.
"""

import re
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, StringConstraints

from paybill_contracts.event import Event, InvalidEventError, UnknownEventError, decode
from paybill_contracts.signatures import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_HEADER,
    FactSignature,
    MalformedSignatureError,
    decoded,
    encoded,
    holds,
    key_id,
    leaf_of,
    read_signature,
)
from paybill_contracts.values import Text, Timestamp

ROOT = "root"
"""The issuer of a certificate that the steward's root key signed."""
PUBLISHED, WITHDRAWN = "signing_key_published", "signing_key_withdrawn"
KEPT_ROOTS = 4096
"""Signatures that held, which are not computed again: the facts of a group share one."""

_PURPOSES = {PUBLISHED: b"paybill signing key v1\0", WITHDRAWN: b"paybill signing key withdrawn v1\0"}
# By name: a field that a later version adds must not change the text of older certificates.
_CERTIFIED = {
    PUBLISHED: ("key_id", "public_key", "number", "valid_since", "replaces", "issuer"),
    WITHDRAWN: ("key_id", "reason", "withdrawn_at", "issuer"),
}
_TOKENS = 6
_VERSION = re.compile(r"v([1-9][0-9]{0,3})")

KeyId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{16}$"), Field(examples=["m3Zp0Qe1rY7aBcDk"])]
Issuer = Annotated[str, StringConstraints(pattern=r"^(root|[A-Za-z0-9_-]{16})$"), Field(examples=["root"])]
Certificate = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{86}$"), Field(examples=["A" * 85 + "Q"], description="Ed25519")
]
PublicKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$"), Field(examples=["A" * 43])]
Number = Annotated[int, Field(ge=1, le=1_000_000, examples=[1])]


class SigningKeyPublished(Event):
    """The service signs its facts with this key from now on. `number` counts its keys from 1.

    key_id: the id in the header `pb-sig`; public_key: Ed25519, 32 bytes in base64url.
    issuer: `root`, or the id of the previous key; certificate: its signature of the other fields.
    """

    key_id: KeyId
    public_key: PublicKey
    number: Number
    valid_since: Timestamp
    replaces: KeyId | None
    issuer: Issuer
    certificate: Certificate


class SigningKeyWithdrawn(Event):
    """Facts of this key that come later in the stream are refused; those before it stay valid.

    issuer: `root`, or the id of a newer key of the service; certificate: its signature of the other fields.
    """

    key_id: KeyId
    reason: Text
    withdrawn_at: Timestamp
    issuer: Issuer
    certificate: Certificate


class TenantSigningKeyPublished(
    SigningKeyPublished, type="tenant.signing_key_published", version=1, aggregate="signing-key", key="key_id"
):
    """The tenant service signs its facts with this key from now on."""


class TenantSigningKeyWithdrawn(
    SigningKeyWithdrawn, type="tenant.signing_key_withdrawn", version=1, aggregate="signing-key-end", key="key_id"
):
    """A key of the tenant service is withdrawn: facts of it that come later are refused."""


class BillingSigningKeyPublished(
    SigningKeyPublished, type="billing.signing_key_published", version=1, aggregate="signing-key", key="key_id"
):
    """The billing service signs its facts with this key from now on."""


class BillingSigningKeyWithdrawn(
    SigningKeyWithdrawn, type="billing.signing_key_withdrawn", version=1, aggregate="signing-key-end", key="key_id"
):
    """A key of the billing service is withdrawn: facts of it that come later are refused."""


class ProvisionerSigningKeyPublished(
    SigningKeyPublished, type="provisioner.signing_key_published", version=1, aggregate="signing-key", key="key_id"
):
    """The provisioner service signs its facts with this key from now on."""


class ProvisionerSigningKeyWithdrawn(
    SigningKeyWithdrawn, type="provisioner.signing_key_withdrawn", version=1, aggregate="signing-key-end", key="key_id"
):
    """A key of the provisioner service is withdrawn: facts of it that come later are refused."""


class AgentGatewaySigningKeyPublished(
    SigningKeyPublished, type="agent-gateway.signing_key_published", version=1, aggregate="signing-key", key="key_id"
):
    """The agent gateway signs its facts with this key from now on."""


class AgentGatewaySigningKeyWithdrawn(
    SigningKeyWithdrawn,
    type="agent-gateway.signing_key_withdrawn",
    version=1,
    aggregate="signing-key-end",
    key="key_id",
):
    """A key of the agent gateway is withdrawn: facts of it that come later are refused."""


class Refusal(StrEnum):
    """Reason why a message is no fact of the service that its subject names."""

    UNSIGNED = "unsigned"
    MALFORMED = "malformed_signature"
    OTHER_SOURCE = "other_source"
    UNKNOWN_KEY = "unknown_key"
    KEY_OF_ANOTHER = "key_of_another_service"
    KEY_TOO_NEW = "key_published_later"
    KEY_WITHDRAWN = "key_withdrawn"
    ALTERED = "altered"
    FORGED_KEY = "forged_key"
    REPLAYED_KEY = "replayed_key"

    @property
    def explanation(self) -> str:
        """A sentence for people, without a subject."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Refusal.UNSIGNED: "it has no signature",
    Refusal.MALFORMED: "its signature is malformed",
    Refusal.OTHER_SOURCE: "its subject, its ce-source and its event name different services",
    Refusal.UNKNOWN_KEY: "no service has published the key of its signature",
    Refusal.KEY_OF_ANOTHER: "it is signed with the key of another service",
    Refusal.KEY_TOO_NEW: "it is signed with a key that was published after it",
    Refusal.KEY_WITHDRAWN: "it is signed with a key that was withdrawn before it",
    Refusal.ALTERED: "its signature belongs to another content",
    Refusal.FORGED_KEY: "it announces a key that neither the previous key nor the root key has signed",
    Refusal.REPLAYED_KEY: "it announces a key that is older than the newest one",
}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key of a service. since, until: sequences of its publication and of its withdrawal, if there is one."""

    owner: str
    key_id: str
    public: bytes
    number: int
    certificate: str
    since: int
    until: int | None = None


def certify(issuer: Ed25519PrivateKey, kind: str, owner: str, fields: Mapping[str, object]) -> str:
    """Returns the certificate of a key (`kind` PUBLISHED) or of its withdrawal (WITHDRAWN). fields: as in JSON."""
    return encoded(issuer.sign(_certificate_text(kind, owner, fields)))


def is_certified(issuer: bytes, owner: str, event: SigningKeyPublished | SigningKeyWithdrawn) -> bool:
    """Returns whether the owner of a public key (32 raw bytes) signed the certificate of a fact about a key."""
    kind = PUBLISHED if isinstance(event, SigningKeyPublished) else WITHDRAWN
    try:
        text = _certificate_text(kind, owner, event.model_dump(mode="json"))
        Ed25519PublicKey.from_public_bytes(issuer).verify(decoded(event.certificate), text)
    except (InvalidSignature, ValueError):
        return False
    return True


def _certificate_text(kind: str, owner: str, fields: Mapping[str, object]) -> bytes:
    """Returns what an issuer signs: owner and fields with their lengths, under the purpose of `kind`."""
    values = (owner, *("" if fields[name] is None else str(fields[name]) for name in _CERTIFIED[kind]))
    parts = [value.encode() for value in values]
    return _PURPOSES[kind] + struct.pack(f">{len(parts)}I", *map(len, parts)) + b"".join(parts)


def key_fact_kind(subject: str) -> str | None:
    """Returns PUBLISHED or WITHDRAWN for the subject of a fact about a key; None for any other."""
    tokens = subject.split(".", _TOKENS)
    return tokens[4] if len(tokens) == _TOKENS and tokens[4] in _PURPOSES else None


class KnownKeys:
    """The keys of all services, from the facts about keys that `verify` received in stream order.

    root: the steward's public root key, 32 bytes. signed_from: facts with a smaller sequence need no signature.
    """

    def __init__(self, root: bytes, signed_from: int = 0) -> None:
        self._root = root
        self._signed_from = signed_from
        self._keys: dict[str, SigningKey] = {}
        self._held: OrderedDict[tuple[str, int, bytes, bytes], None] = OrderedDict()

    @property
    def keys(self) -> list[SigningKey]:
        """All keys that were published and certified."""
        return list(self._keys.values())

    def newest(self, owner: str, before: int | None = None) -> SigningKey | None:
        """Returns the key of a service with the highest number; None without any. before: a sequence."""
        own = [key for key in self._keys.values() if key.owner == owner and (before is None or key.since < before)]
        return max(own, key=lambda key: key.number, default=None)

    def verify(self, subject: str, headers: Mapping[str, str], payload: bytes, sequence: int) -> Refusal | None:
        """Returns why a message of EVENTS is no fact of its writer; None when it is one. Never raises.

        A fact about a key is learnt when it is valid, so that it verifies the messages after it.
        """
        tokens = subject.split(".")
        header = headers.get(SIGNATURE_HEADER)
        kind = key_fact_kind(subject)
        if header is None and sequence < self._signed_from and kind is None:
            return None
        if len(tokens) != _TOKENS or headers.get("ce-source") != f"paybill/{tokens[3]}":
            return Refusal.OTHER_SOURCE
        if header is None:
            return Refusal.UNSIGNED
        try:
            signature = read_signature(header)
        except MalformedSignatureError:
            return Refusal.MALFORMED
        learnt = None if kind is None else self._learnt(kind, tokens[3], tokens[5], payload, sequence)
        if isinstance(learnt, Refusal):
            return learnt
        refusal = self._refusal(tokens[3], signature, learnt, leaf_of(subject, headers, payload), sequence)
        if refusal is None and learnt is not None:
            self._keys[learnt.key_id] = learnt
        return refusal

    def _refusal(
        self, owner: str, signature: FactSignature, learnt: SigningKey | None, leaf: bytes, sequence: int
    ) -> Refusal | None:
        key = self._keys.get(signature.key_id)
        if key is None and learnt is not None and learnt.key_id == signature.key_id:
            key = learnt
        if key is None:
            return Refusal.UNKNOWN_KEY
        if key.owner != owner:
            return Refusal.KEY_OF_ANOTHER
        if sequence < key.since:
            return Refusal.KEY_TOO_NEW
        if key.until is not None and sequence > key.until:
            return Refusal.KEY_WITHDRAWN
        root = signature.root(leaf)
        known = (key.key_id, signature.count, root, signature.signature)
        if known in self._held:
            self._held.move_to_end(known)
            return None
        if not holds(key.public, signature, root):
            return Refusal.ALTERED
        self._held[known] = None
        if len(self._held) > KEPT_ROOTS:
            self._held.popitem(last=False)
        return None

    def _learnt(
        self, kind: str, owner: str, version: str, payload: bytes, sequence: int
    ) -> SigningKey | Refusal | None:
        """Returns the key as it is after the fact; None when the fact changes nothing."""
        number = _VERSION.fullmatch(version)
        if number is None:
            return Refusal.FORGED_KEY
        try:
            event = decode(f"{owner}.{kind}", int(number[1]), payload)
        except (UnknownEventError, InvalidEventError):
            return Refusal.FORGED_KEY
        match event:
            case SigningKeyPublished():
                return self._published(owner, event, sequence)
            case SigningKeyWithdrawn():
                return self._withdrawn(owner, event, sequence)
        return Refusal.FORGED_KEY

    def _published(self, owner: str, event: SigningKeyPublished, sequence: int) -> SigningKey | Refusal | None:
        # Several consumers share the keys: one that is behind has to find the same as one that is ahead.
        newest, known = self.newest(owner, sequence), self._keys.get(event.key_id)
        if known is not None and known.since == sequence:
            return None
        if known is not None and known.since < sequence:
            repeated = known.owner == owner and known.certificate == event.certificate and known == newest
            return None if repeated else Refusal.REPLAYED_KEY
        try:
            public = decoded(event.public_key)
        except MalformedSignatureError:
            return Refusal.FORGED_KEY
        if len(public) != PUBLIC_KEY_BYTES or key_id(public) != event.key_id:
            return Refusal.FORGED_KEY
        if newest is not None and event.number <= newest.number:
            return Refusal.REPLAYED_KEY
        if event.issuer == ROOT:
            issuer = self._root
        elif newest is not None and _is_valid(newest, sequence) and event.issuer == event.replaces == newest.key_id:
            issuer = newest.public
        else:
            return Refusal.FORGED_KEY
        if not is_certified(issuer, owner, event):
            return Refusal.FORGED_KEY
        return SigningKey(owner, event.key_id, public, event.number, event.certificate, sequence)

    def _withdrawn(self, owner: str, event: SigningKeyWithdrawn, sequence: int) -> SigningKey | Refusal | None:
        key = self._keys.get(event.key_id)
        if key is None or key.owner != owner:
            return Refusal.FORGED_KEY
        if key.until == sequence:
            return None
        issuer = self._root if event.issuer == ROOT else self._newer(key, event.issuer, sequence)
        if issuer is None or not is_certified(issuer, owner, event):
            return Refusal.FORGED_KEY
        return replace(key, until=sequence) if key.until is None else None

    def _newer(self, key: SigningKey, issuer: str, sequence: int) -> bytes | None:
        newer = self._keys.get(issuer)
        if newer is None or newer.owner != key.owner or newer.number <= key.number:
            return None
        return newer.public if _is_valid(newer, sequence) else None


def _is_valid(key: SigningKey, sequence: int) -> bool:
    return key.since <= sequence and (key.until is None or sequence <= key.until)
