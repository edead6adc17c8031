"""Tests of strict JSON."""

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_runtime.http.strict_json import MAX_DEPTH, MAX_KEYS, JsonError, read_json

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


@given(VALUES)
def test_a_storable_value_is_read_as_it_was_written(value: object) -> None:
    assert read_json(json.dumps(value).encode()) == value
    assert read_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b'{"a": 1, "a": 2}', "repeated_key"),
        (b'[{"a": {"b": 1, "c": 2, "b": 1}}]', "repeated_key"),
        (b'{"a": 1, "\\u0061": 2}', "repeated_key"),
        (b"9223372036854775808", "number_out_of_range"),
        (b"-9223372036854775809", "number_out_of_range"),
        (b"1" * 5000, "number_out_of_range"),
        (b"1e999", "number_out_of_range"),
        (b"NaN", "invalid_json"),
        (b"[-Infinity]", "invalid_json"),
        (b'"\\u0000"', "invalid_text"),
        (b'{"a": ["\\ud800"]}', "invalid_text"),
        (b'{"\\udc00": 1}', "invalid_text"),
        (b'"\xed\xa0\x80"', "invalid_json"),
        (b'"\x00"', "invalid_json"),
        (b'\xef\xbb\xbf{"a": 1}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), "invalid_json"),
        (b"", "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b"{%s}" % b",".join(b'"%d":1' % each for each in range(MAX_KEYS + 1)), "too_many_keys"),
    ],
)
def test_a_document_with_another_meaning_elsewhere_is_refused(document: bytes, code: str) -> None:
    with pytest.raises(JsonError) as refused:
        read_json(document)

    assert refused.value.code == code


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"9223372036854775808", "9223372036854775808 is not an integer of 64 bits"),
        (b"1" * 5000, f"{'1' * 20}… (5000 characters) is not an integer of 64 bits"),
        (b"1e999", "1e999 is too large"),
    ],
)
def test_a_long_number_is_shown_as_cut(document: bytes, reason: str) -> None:
    with pytest.raises(JsonError, match=f"^{re.escape(reason)}$"):
        read_json(document)


def test_an_escaped_pair_of_surrogates_and_an_escaped_backslash_are_texts() -> None:
    assert read_json(b'["\\ud83d\\ude00", "\\\\u0000", 1.5]') == ["\U0001f600", "\\u0000", 1.5]


def test_a_refusal_names_the_place() -> None:
    with pytest.raises(JsonError, match=r"^line 2, column 6: "):
        read_json(b'{\n"a": x}')
    with pytest.raises(JsonError, match=r"^'a'\[1\]\.'b' contains NUL"):
        read_json(b'{"a": [0, {"b": "\\u0000"}]}')


@pytest.mark.parametrize(
    "document",
    [
        b'{%s,"9998":1}' % b",".join(b'"%d":1' % each for each in range(MAX_KEYS - 1)),
        b'{"%s": [%s"\\u0000"]}' % (b"k" * 100_000, b"0," * 75_000),
    ],
    ids=["many keys", "a long key"],
)
def test_the_time_is_linear_in_the_length(document: bytes) -> None:
    begun = time.process_time()

    with pytest.raises(JsonError) as refused:
        read_json(document)

    assert time.process_time() - begun < 0.5
    assert len(str(refused.value)) < 300
