"""YAML of definition files: what YAML 1.1 converts to another value than people expect is refused, with its line."""

import pytest
from paybill_definitions.yaml_lines import InvalidDocumentError, read
from pydantic import BaseModel


class Document(BaseModel):
    """A document of two values."""

    first: bool | int | float | str
    second: bool | int | float | str = 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("yes", "yes would be a boolean; write true or false"),
        ("No", "No would be a boolean"),
        ("off", "off would be a boolean"),
        ("1:15", "1:15 would be a number to the base 60; write the number"),
        ("-1:15", "-1:15 would be a number to the base 60"),
        ("1:15.5", "1:15.5 would be a number to the base 60"),
        ("017", "017 would be a number to another base than 10"),
        ("+0x1F", "+0x1F would be a number to another base"),
        ("0b11", "0b11 would be a number to another base"),
        ("!!int '017'", "017 would be a number to another base"),
    ],
)
def test_a_value_that_would_be_converted_silently_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidDocumentError) as refused:
        read(Document, f"first: 1\nsecond: {text}\n")

    (found,) = refused.value.diagnostics
    assert (found.line, found.reason.startswith(reason)) == (2, True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("0", 0),
        ("-15", -15),
        ("1_000", 1000),
        ("0.5", 0.5),
        ("'yes'", "yes"),
        ('"1:15"', "1:15"),
    ],
)
def test_a_value_with_one_meaning_is_read(text: str, value: object) -> None:
    found, _ = read(Document, f"first: {text}\n")

    assert (found.first, type(found.first)) == (value, type(value))
