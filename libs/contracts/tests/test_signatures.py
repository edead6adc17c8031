"""Signatures of facts: nothing of a fact can change, and a signature has one form only."""

from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.signatures import (
    MalformedSignatureError,
    encoded,
    holds,
    key_id,
    leaf_of,
    read_signature,
    root_of,
    sign,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
ID = key_id(PUBLIC)
HEADERS = {
    "Content-Type": "application/json",
    "Nats-Msg-Id": "1",
    "ce-id": "1",
    "ce-source": "paybill/tenant",
    "pb-actor": "user:ann",
    "traceparent": "00-1-2-03",
}
SUBJECT = "paybill.events.3.tenant.tenant_activated.v1"


def is_signed(leaf, header):
    signature = read_signature(header)
    return holds(PUBLIC, signature, signature.root(leaf))


def rfc_6962_root(leaves):
    """The definition in section 2.1, by recursion."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\1" + rfc_6962_root(leaves[:split]) + rfc_6962_root(leaves[split:])).digest()


@pytest.mark.parametrize("count", range(1, 33))
def test_the_tree_is_that_of_rfc_6962_and_each_fact_is_proven(count):
    leaves = [sha256(bytes([n])).digest() for n in range(count)]

    headers = sign(KEY, ID, leaves)

    assert root_of(leaves) == rfc_6962_root(leaves)
    assert all(is_signed(leaf, header) for leaf, header in zip(leaves, headers, strict=True))
    assert max(map(len, headers)) <= 350
    for place, header in enumerate(headers):
        assert not any(is_signed(leaf, header) for n, leaf in enumerate(leaves) if n != place)


def test_more_facts_than_one_tree_holds_are_signed_in_groups():
    leaves = [sha256(bytes([n])).digest() for n in range(70)]

    headers = sign(KEY, ID, leaves)

    assert [read_signature(header).count for header in headers] == [32] * 64 + [6] * 6
    assert all(is_signed(leaf, header) for leaf, header in zip(leaves, headers, strict=True))


def test_a_node_is_no_leaf():
    left, right = (sha256(bytes([n])).digest() for n in range(2))
    (signed, _) = sign(KEY, ID, [left, right])
    root = root_of([left, right])

    _, key, _, _, _, signature = signed.split(".")

    assert not is_signed(root, f"1.{key}.0.1..{signature}")  # the root alone, as if it were a fact


def test_leaves_depend_on_all_that_means_something():
    leaf = leaf_of(SUBJECT, HEADERS, b"{}")

    others = [
        leaf_of(SUBJECT + "1", HEADERS, b"{}"),
        leaf_of(SUBJECT, HEADERS, b"{} "),
        *(leaf_of(SUBJECT, HEADERS | {name: "x"}, b"{}") for name in HEADERS),
        *(leaf_of(SUBJECT, {n: v for n, v in HEADERS.items() if n != name}, b"{}") for name in HEADERS),
        leaf_of(SUBJECT, HEADERS | {"pb-new": ""}, b"{}"),
        leaf_of(SUBJECT, HEADERS | {"pb-actor": "user:annt", "traceparent": "00-1-2-03"}, b"{}"),
    ]

    assert leaf not in others
    assert len(set(others)) == len(others)


def test_what_the_transport_adds_is_no_part_of_a_leaf():
    added = {"Nats-Batch-Id": "x", "Nats-Expected-Last-Msg-Id": "y", "pb-sig": "z"}

    assert leaf_of(SUBJECT, HEADERS | added, b"{}") == leaf_of(SUBJECT, HEADERS, b"{}")


def test_text_cannot_be_shifted_between_parts():
    assert leaf_of("ab", {"pb-a": "b"}, b"c") != leaf_of("a", {"pb-a": "b"}, b"bc")
    assert leaf_of("s", {"pb-a": "bc"}, b"") != leaf_of("s", {"pb-a": "b"}, b"c")
    assert leaf_of("s", {"pb-a": "xpb-by"}, b"") != leaf_of("s", {"pb-a": "x", "pb-b": "y"}, b"")
    assert leaf_of("s", {"pb-a": "é"}, b"") != leaf_of("s", {"pb-a": "Ã©"}, b"")


@given(
    st.dictionaries(st.text(max_size=5).map("pb-".__add__), st.text(max_size=5), max_size=4),
    st.dictionaries(st.text(max_size=5).map("pb-".__add__), st.text(max_size=5), max_size=4),
    st.binary(max_size=6),
    st.binary(max_size=6),
)
def test_different_facts_have_different_leaves(one, other, payload, other_payload):
    one.pop("pb-sig", None)
    other.pop("pb-sig", None)

    equal = leaf_of("s", one, payload) == leaf_of("s", other, other_payload)

    assert equal == ((one, payload) == (other, other_payload))


@given(st.integers(0, 9), st.data())
def test_a_changed_header_proves_nothing(place, data):
    leaves = [sha256(bytes([n])).digest() for n in range(10)]
    header = sign(KEY, ID, leaves)[place]
    at = data.draw(st.integers(0, len(header) - 1))
    changed = header[:at] + data.draw(st.characters(codec="ascii")) + header[at + 1 :]

    try:
        accepted = is_signed(leaves[place], changed)
    except MalformedSignatureError:
        accepted = False

    # The id of the key only names it: with another id, another key is looked up.
    assert not accepted or changed == header or read_signature(changed).key_id != ID


@given(st.text(max_size=400))
def test_any_text_is_read_or_refused(text):
    try:
        signature = read_signature(text)
    except MalformedSignatureError:
        return
    assert signature.place < signature.count <= 32


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header + "\n",
        lambda header: header + "=",
        lambda header: " " + header,
        lambda header: header.replace("1.", "2.", 1),
        lambda header: header.replace(f"{ID}.0.", f"{ID}.00."),
        lambda header: header.replace(f"{ID}.0.3.", f"{ID}.0.03."),
        lambda header: header.replace(f"{ID}.0.3.", f"{ID}.3.3."),
        lambda header: header.replace(f"{ID}.0.3.", f"{ID}.0.33."),
        lambda header: header.replace(f"{ID}.0.3.", f"{ID}.0.0."),
        lambda header: header.replace(f"{ID}.0.3.", f"{ID}.2.3."),
        lambda header: header + "." + "A" * 1_000_000,
        lambda header: header[:-1] + chr(ord(header[-1]) + 1),  # other unused bits of the last character
        lambda header: header.replace(".0.3.", ".0.3.AAAA"),
    ],
)
def test_a_signature_in_another_form_is_refused(change):
    header = sign(KEY, ID, [sha256(bytes([n])).digest() for n in range(3)])[0]

    with pytest.raises(MalformedSignatureError):
        read_signature(change(header))


def test_a_key_of_another_length_verifies_nothing():
    leaf = sha256(b"").digest()
    signature = read_signature(sign(KEY, ID, [leaf])[0])

    assert not holds(b"short", signature, leaf)
    assert encoded(b"\xff\xfe") == "__4"
