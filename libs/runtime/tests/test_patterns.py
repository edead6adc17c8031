"""Patterns of request fields in words."""

from datetime import timedelta
from typing import Annotated, Literal
from uuid import UUID

import pytest
from paybill_contracts.purchases import Coupon, Currency
from paybill_contracts.values import Digest, Key, ProviderId, Slug, SubscriptionId, TenantId, Text
from paybill_runtime.http.patterns import in_words
from pydantic import Field, TypeAdapter, ValidationError


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (Slug, "1 to 40 of a-z"),
        (Key, "beginning with a letter"),
        (Text, "one line"),
        (Currency, "ISO 4217"),
        (Coupon, "1 to 100 letters"),
        (ProviderId, "id of the provider"),
        (Digest, "64 hexadecimal digits"),
        (TenantId, "ten_ and 32"),
        (SubscriptionId, "sub_ and 32"),
    ],
)
def test_a_value_that_does_not_match_is_refused_in_words(field, words) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(field).validate_python("\n")

    message = in_words(refused.value.errors()[0])
    assert message.startswith("write ")
    assert words in message


@pytest.mark.parametrize(
    ("type_", "value", "words"),
    [
        (int, "x", "write a whole number"),
        (Annotated[int, Field(ge=1)], 0, "write 1 or more"),
        (Annotated[str, Field(min_length=1)], "", "write a text that is not empty"),
        (Annotated[str, Field(max_length=3)], "abcd", "write at most 3 characters"),
        (Annotated[timedelta, Field(le=timedelta(days=31))], timedelta(days=90), "write 31 days or less"),
        (Literal["month", "year"], "day", "write 'month' or 'year'"),
        (UUID, "x", "Input should be a valid UUID"),
    ],
)
def test_a_bound_and_a_type_are_in_words_and_another_error_keeps_its_message(type_, value, words) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(type_).validate_python(value)

    assert in_words(refused.value.errors()[0]).startswith(words)
