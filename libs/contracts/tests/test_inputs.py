"""Tests of text and e-mail addresses that people enter."""

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from paybill_contracts.inputs import Email, PlainText
from paybill_contracts.validation_messages import plain_message
from paybill_contracts.values import Text
from pydantic import TypeAdapter, ValidationError

TEXT = TypeAdapter(PlainText)
EMAIL = TypeAdapter(Email)
HIDDEN = [
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    *(0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF),
    *(0x00AD, 0x2028, 0x2029, 0x3164, 0xD800, 0xE0041),
]


def refusal(adapter, value):
    """Returns the message for people."""
    with pytest.raises(ValidationError) as refused:
        adapter.validate_python(value)
    (error,) = refused.value.errors()
    return plain_message(error)


@pytest.mark.parametrize("code", HIDDEN, ids=lambda code: f"U+{code:04X}")
@pytest.mark.parametrize("place", ["{}contract", "con{}tract", "contract{}", "{}"])
def test_a_hidden_character_is_refused_and_named(code, place) -> None:
    message = refusal(TEXT, place.format(chr(code)))

    assert f"character {place.index('{') + 1}, U+{code:04X}" in message
    assert chr(code) not in message or code == 0x20


@pytest.mark.parametrize("value", ["", " ", "\u00a0\u2003\u3000"])
def test_a_blank_text_is_refused(value) -> None:
    assert refusal(TEXT, value) == "write a text that is not blank"


@pytest.mark.parametrize("value", ["x" * 501, "\u0958" * 251, " " * 501])
def test_a_text_is_bounded_before_and_after_its_normalisation(value) -> None:
    assert refusal(TEXT, value) == "write at most 500 characters"


@pytest.mark.parametrize(
    ("entered", "kept"),
    [
        (" Zoe\u0308 & Söhne\u00a0", "Zoë & Söhne"),
        ("東京 株式会社", "東京 株式会社"),
        ("שלום (2026)", "שלום (2026)"),
        ("paid 👍🏽", "paid 👍🏽"),
        ("x" * 500, "x" * 500),
    ],
)
def test_a_text_is_kept_in_one_form(entered, kept) -> None:
    assert TEXT.validate_python(entered) == kept


@given(st.text())
def test_what_is_accepted_is_normal_visible_and_fits_every_event(value) -> None:
    try:
        kept = TEXT.validate_python(value)
    except ValidationError:
        return

    assert TypeAdapter(Text).validate_python(kept) == TEXT.validate_python(kept) == kept
    assert unicodedata.is_normalized("NFC", kept)
    assert not {unicodedata.category(each) for each in kept} & {"Cc", "Cs", "Zl", "Zp"}


@given(st.from_regex(TEXT.json_schema()["pattern"], fullmatch=True))
def test_the_documented_pattern_describes_what_is_accepted(value) -> None:
    assume(len(value) <= 250 and max(value) < "\ud800")  # ECMA 262 has no common notation for the characters beyond

    assert TEXT.validate_python(value)


@pytest.mark.parametrize(
    ("entered", "kept"),
    [
        ("ops@acme.example", "ops@acme.example"),
        ("Ops+billing@ACME.example", "Ops+billing@acme.example"),
        ("zoë@söhne.example", "zoë@söhne.example"),
    ],
)
def test_an_address_is_accepted(entered, kept) -> None:
    assert EMAIL.validate_python(entered) == kept


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("acme.example", "@-sign"),
        ("ops@", "after the @-sign"),
        ("@acme.example", "before the @-sign"),
        ("ops@acme@acme.example", "@"),
        ("ops ops@acme.example", "SPACE"),
        ("ops@acme", "not valid. It should have a period"),
        ("ops@[127.0.0.1]", "after the @-sign"),
        ("ops@acme.localhost", "special-use"),
        ("ops@ac\u200bme.example", "ZERO WIDTH"),
        ("\u202eops@acme.example", "RIGHT-TO-LEFT"),
        ("ops@acme.example\n", "U+000A"),
        ("a" * 250 + "@x.example", "write at most 254 characters"),
    ],
)
def test_an_address_is_refused_with_the_reason(value, reason) -> None:
    assert reason in refusal(EMAIL, value)
