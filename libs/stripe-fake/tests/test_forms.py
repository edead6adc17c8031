"""Form encoding: values encoded by the SDK are parsed, and malformed input is refused."""

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params, from_json, parse_form
from stripe._encode import _api_encode

names = st.text(st.characters(codec="utf-8", exclude_characters="[]\0"), min_size=1, max_size=8)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
# No parameter of Stripe's is a list of booleans, and the SDK would encode them in Python's spelling.
values = st.booleans() | st.recursive(
    texts | st.integers(),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(names, inner, min_size=1, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(names, values, max_size=4))
def test_values_encoded_by_the_sdk_are_parsed_unchanged(params):
    assert parse_form(urlencode(list(_api_encode(params)))) == from_json(params)


def test_empty_brackets_append():
    read = parse_form("a[]=1&a[]=2&b[][x]=1&b[][y]=2&b[][x]=3")

    assert read == {"a": {"0": "1", "1": "2"}, "b": {"0": {"x": "1", "y": "2"}, "1": {"x": "3"}}}


def test_list_elements_are_ordered_by_their_indices():
    params = Params(parse_form("a[10]=c&a[2]=b&a[0]=a"))

    assert params.texts("a", most=3) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "encoded",
    [
        "a=1&a[b]=2",
        "a[b]=1&a=2",
        "a[b]=1&a[b][c]=2",
        "[a]=1",
        "a[b=1",
        "a]b[=1",
        "=1",
        "a[b][c][d][e][f][g][h][i]=1",
        "a=%00",
        b"a=\xff",
        "a=%ff",
        "&".join(f"a{number}=1" for number in range(1001)),
    ],
)
def test_a_malformed_form_is_refused(encoded):
    with pytest.raises(InvalidRequestError):
        parse_form(encoded)


@pytest.mark.parametrize("number", ["", "1.5", "1e3", "\u0661", "9" * 30, "-1", "NaN", " 1"])
def test_only_plain_digits_are_an_integer(number):
    params = Params({"quantity": number})

    if number:
        with pytest.raises(InvalidRequestError) as caught:
            params.integer("quantity")
        assert (caught.value.code, caught.value.param) == ("parameter_invalid_integer", "quantity")
    else:
        assert params.integer("quantity") is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1", "1e-13", "0.1234567890123", "abc", "1e99"])
def test_a_decimal_is_finite_and_not_negative(number):
    with pytest.raises(InvalidRequestError):
        Params({"amount": number}).decimal("amount")


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "ftp://x", "https://", "http:///x", 'http://x/"><b>', "http://[::1", "http://x/ y", "x"],
)
def test_only_web_addresses_are_urls(url):
    with pytest.raises(InvalidRequestError) as caught:
        Params({"success_url": url}).url("success_url")
    assert caught.value.code == "url_invalid"


def test_metadata_merges_and_empty_values_remove():
    held = {"kept": "1", "gone": "2"}

    assert Params({"metadata": {"gone": "", "new": "3"}}).metadata(held) == {"kept": "1", "new": "3"}
    assert Params({"metadata": ""}).metadata(held) == {}
    assert Params({}).metadata(held) == held


@pytest.mark.parametrize(
    "metadata",
    [{"k" * 41: "v"}, {"k": "v" * 501}, {str(number): "v" for number in range(51)}, {"k": {"nested": "v"}}],
)
def test_metadata_is_bounded(metadata):
    with pytest.raises(InvalidRequestError):
        Params({"metadata": metadata}).metadata()


def test_an_unread_parameter_is_refused_by_its_full_name():
    params = Params(parse_form("items[0][price]=p&items[0][colour]=red"))
    [item] = params.many("items", most=1) or []
    item.required("price")

    with pytest.raises(InvalidRequestError) as caught:
        params.finish()
    assert (caught.value.code, caught.value.param) == ("parameter_unknown", "items[0][colour]")


def test_time_filters_accept_bounds_or_an_exact_time():
    between = Params(parse_form("created[gte]=10&created[lt]=20")).within("created")
    exactly = Params(parse_form("created=10")).within("created")

    assert [moment for moment in (9, 10, 19, 20) if between(moment)] == [10, 19]
    assert [moment for moment in (9, 10, 11) if exactly(moment)] == [10]
