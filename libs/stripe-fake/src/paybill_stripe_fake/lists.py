"""Stripe's lists: newest first, with the ids of elements as cursors."""

from collections.abc import Callable
from operator import is_not
from typing import Any

from paybill_stripe_fake.account import Account
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource

_DEFAULT_LIMIT = 10
_MAX_LIMIT = 100
_NESTED = {dict, list}


def list_object(data: list[Resource], url: str, *, has_more: bool = False) -> Resource:
    """Returns a list in Stripe's list object."""
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def shortened(value: Any) -> Any:
    """Returns the resource with every list inside it cut to its first ten elements; the list's `url` has the rest."""
    # Most parts stay the same, and most are neither lists nor objects: copies and calls would cost more than the rest
    # of a response.
    if type(value) is list:
        elements = [shortened(each) if type(each) in _NESTED else each for each in value]
        return elements if any(map(is_not, elements, value)) else value
    changed: Resource = {}
    for key, inner in value.items():
        if inner and type(inner) in _NESTED:
            is_list = type(inner) is dict and inner.get("object") == "list"
            after = _first_ten(inner) if is_list else shortened(inner)
            if after is not inner:
                changed[key] = after
    return {**value, **changed} if changed else value


def _first_ten(list_: Any) -> Resource:
    more = len(list_["data"]) > _DEFAULT_LIMIT
    return {**list_, "data": shortened(list_["data"][:_DEFAULT_LIMIT]), "has_more": list_["has_more"] or more}


def page(account: Account, params: Params, kind: str, matches: Callable[[Resource], bool], url: str) -> Resource:
    """Returns the page of a kind that `limit`, `starting_after` and `ending_before` select."""
    return page_of(params, account.store.newest_first(kind), matches, url)


def page_of(params: Params, resources: list[Resource], matches: Callable[[Resource], bool], url: str) -> Resource:
    """Returns a page of any list; a cursor may name an element that the filter hides."""
    limit = params.integer("limit", least=1, most=_MAX_LIMIT) or _DEFAULT_LIMIT
    after, before = params.text("starting_after"), params.text("ending_before")
    if after and before:
        raise InvalidRequestError(
            "You can use only one of starting_after and ending_before.",
            code="parameters_exclusive",
            param="starting_after",
        )
    if before:
        # The page ends just before the cursor, so it is collected backwards.
        newer = list(reversed(resources[: _position(resources, before, "ending_before")]))
        found = _first(newer, matches, limit + 1)
        return list_object(found[:limit][::-1], url, has_more=len(found) > limit)
    older = resources[_position(resources, after, "starting_after") + 1 :] if after else resources
    found = _first(older, matches, limit + 1)
    return list_object(found[:limit], url, has_more=len(found) > limit)


def _first(resources: list[Resource], matches: Callable[[Resource], bool], count: int) -> list[Resource]:
    found: list[Resource] = []
    for resource in resources:
        if not resource.get("deleted") and matches(resource):
            found.append(resource)
            if len(found) == count:
                break
    return found


def _position(resources: list[Resource], identifier: str, param: str) -> int:
    for index, resource in enumerate(resources):
        if resource["id"] == identifier:
            return index
    raise InvalidRequestError(f"No such object: '{identifier[:200]}'", code="resource_missing", param=param)
