"""Signatures of facts: one Ed25519 signature over the Merkle root of a group, and the place of each fact in its tree.

A leaf is the hash of the subject, the meaningful headers and the payload, each with its length. Leaves and nodes have
the prefixes of RFC 6962 (https://www.rfc-editor.org/rfc/rfc6962#section-2.1), so that neither can stand for the other.
"""

import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_HEADER = "pb-sig"
MAX_LEAVES = 32
"""Facts under one signature; more save nothing, and make the header of each longer."""
KEY_ID_BYTES = 12
PUBLIC_KEY_BYTES = 32

_PURPOSE = b"paybill facts v1\0"
_LEAF, _NODE = b"\0", b"\1"
_HASH_BYTES = 32
_MEANINGFUL_PREFIXES = ("ce-", "pb-")
_MEANINGFUL = frozenset({"Content-Type", "Nats-Msg-Id", "traceparent"})
_HEADER = re.compile(
    r"1\.(?P<key>[A-Za-z0-9_-]{16})\.(?P<place>0|[1-9][0-9]?)\.(?P<count>[1-9][0-9]?)\."
    r"(?P<path>[A-Za-z0-9_-]{0,214})\.(?P<signature>[A-Za-z0-9_-]{86})"
)
_MAX_HEADER = 350


class MalformedSignatureError(ValueError):
    """The header is no signature in its only valid form."""


@dataclass(frozen=True, slots=True)
class FactSignature:
    """Signature of a group of `count` facts, with the path from the fact at `place` (from 0) to the root."""

    key_id: str
    place: int
    count: int
    path: tuple[bytes, ...]
    signature: bytes

    def root(self, leaf: bytes) -> bytes:
        """Returns the root of the tree that has `leaf` at this place."""
        place, size, above = self.place, self.count, iter(self.path)
        found = leaf
        while size > 1:
            if place ^ 1 < size:
                found = _node(next(above), found) if place & 1 else _node(found, next(above))
            place, size = place >> 1, (size + 1) >> 1
        return found


def key_id(public: bytes) -> str:
    """Returns the id of a public key (32 raw bytes): 16 characters of base64url."""
    return encoded(sha256(b"paybill signing key\0" + public).digest()[:KEY_ID_BYTES])


def leaf_of(subject: str, headers: Mapping[str, str], payload: bytes) -> bytes:
    """Returns the hash of a fact. Headers that the transport adds, and the signature itself, are not part of it."""
    texts = [subject]
    for name in sorted(headers):
        if (name.startswith(_MEANINGFUL_PREFIXES) and name != SIGNATURE_HEADER) or name in _MEANINGFUL:
            texts += name, headers[name]
    text = "".join(texts)
    if " " in text or not text.isprintable():  # NATS strips spaces around values and line breaks
        texts = [" ".join(each.split()) for each in texts]
        text = "".join(texts)
    data = text.encode("utf-8", "surrogatepass")
    # Lengths count bytes; in ASCII these are the characters.
    sizes = map(len, texts) if len(data) == len(text) else (len(t.encode("utf-8", "surrogatepass")) for t in texts)
    frame = struct.pack(f">{len(texts) + 2}I", len(texts), *sizes, len(payload))
    return sha256(b"".join((_LEAF, frame, data, payload))).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Returns the root of the tree of at least one leaf."""
    return _levels(leaves)[-1][0]


def sign(private: Ed25519PrivateKey, id_: str, leaves: Sequence[bytes]) -> list[str]:
    """Returns the header of each fact; facts are signed in groups of at most MAX_LEAVES. id_: as of `key_id`."""
    headers = []
    for start in range(0, len(leaves), MAX_LEAVES):
        group = leaves[start : start + MAX_LEAVES]
        levels = _levels(group)
        signature = encoded(private.sign(_signed(len(group), levels[-1][0])))
        for place in range(len(group)):
            path = encoded(b"".join(_path(levels, place)))
            headers.append(f"1.{id_}.{place}.{len(group)}.{path}.{signature}")
    return headers


def read_signature(header: str) -> FactSignature:
    """Returns the parts of the header. Raises MalformedSignatureError, also for a second form of the same signature."""
    match = _HEADER.fullmatch(header) if len(header) <= _MAX_HEADER else None
    if match is None:
        raise MalformedSignatureError("the header pb-sig is not of the form 1.KEY.PLACE.COUNT.PATH.SIGNATURE")
    place, count = int(match["place"]), int(match["count"])
    if count > MAX_LEAVES or place >= count:
        raise MalformedSignatureError(f"the header pb-sig names place {place} of {count} facts")
    path, signature = decoded(match["path"]), decoded(match["signature"])
    if len(path) != _path_length(place, count) * _HASH_BYTES:
        raise MalformedSignatureError(f"the header pb-sig has a path of another length than place {place} of {count}")
    hashes = tuple(path[at : at + _HASH_BYTES] for at in range(0, len(path), _HASH_BYTES))
    return FactSignature(match["key"], place, count, hashes, signature)


def holds(public: bytes, signature: FactSignature, root: bytes) -> bool:
    """Returns whether the owner of a public key (32 raw bytes) signed a group with this root."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature.signature, _signed(signature.count, root))
    except (InvalidSignature, ValueError):
        return False
    return True


def encoded(value: bytes) -> str:
    """Returns base64url without padding."""
    return urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def decoded(text: str) -> bytes:
    """Returns the bytes of base64url without padding. Raises MalformedSignatureError for any other form of them."""
    try:
        value = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise MalformedSignatureError("a value is no base64url") from error
    if encoded(value) != text:
        raise MalformedSignatureError("a value is not in the only form of base64url that is accepted")
    return value


def _signed(count: int, root: bytes) -> bytes:
    return _PURPOSE + bytes([count]) + root


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE + left + right).digest()


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Returns the tree from the leaves to the root. The last one of an odd level moves up, as RFC 6962 splits."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [_node(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
        if len(below) & 1:
            above.append(below[-1])
        levels.append(above)
    return levels


def _path(levels: Sequence[Sequence[bytes]], place: int) -> list[bytes]:
    path = []
    for level in levels[:-1]:
        if place ^ 1 < len(level):
            path.append(level[place ^ 1])
        place >>= 1
    return path


def _path_length(place: int, count: int) -> int:
    length = 0
    while count > 1:
        length += place ^ 1 < count
        place, count = place >> 1, (count + 1) >> 1
    return length
