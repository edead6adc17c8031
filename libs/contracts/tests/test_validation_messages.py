"""Errors of fields in words: of requests, of definitions and of events."""

from datetime import timedelta
from typing import Annotated, Literal
from uuid import UUID

import pytest
from paybill_contracts.drift import DifferenceId
from paybill_contracts.kinds import Address, Cidr, Name
from paybill_contracts.plan_approvals import ApprovalId
from paybill_contracts.purchases import Coupon, Currency
from paybill_contracts.validation_messages import plain_message
from paybill_contracts.values import Digest, Key, ProviderId, Slug, SubscriptionId, TenantId, Text
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
        (Address, "a kind and a name"),
        (Name, "1 to 200 letters"),
        (Cidr, "a range of addresses"),
        (DifferenceId, "dif_ and 16"),
        (ApprovalId, "apr_ and 32"),
    ],
)
def test_a_value_that_does_not_match_is_refused_plain_message(field, words) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(field).validate_python("\n")

    message = plain_message(refused.value.errors()[0])
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

    assert plain_message(refused.value.errors()[0]).startswith(words)
