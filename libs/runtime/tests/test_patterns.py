"""Patterns of request fields in words."""

import pytest
from paybill_contracts.purchases import Coupon, Currency
from paybill_contracts.values import Digest, Key, ProviderId, Slug, SubscriptionId, TenantId, Text
from paybill_runtime.http.patterns import in_words
from pydantic import TypeAdapter, ValidationError


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


def test_another_error_keeps_its_message() -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(int).validate_python("x")

    assert in_words(refused.value.errors()[0]).startswith("Input should be a valid integer")
