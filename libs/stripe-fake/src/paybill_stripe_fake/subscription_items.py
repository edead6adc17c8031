"""The API of subscription items: the same changes as through their subscription."""

from paybill_stripe_fake import prorations
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.errors import InvalidRequestError, ResourceMissingError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page_of
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_changes import change_items, changed_item, refuse_if_unpaid
from paybill_stripe_fake.subscription_state import ENDED, period_of
from paybill_stripe_fake.terms import MAX_ITEMS, check_prices, new_item, read_items

_PAYMENT = ("allow_incomplete", "default_incomplete", "error_if_incomplete")


def create(account: Account, params: Params) -> Resource:
    """Adds an item to a subscription."""
    subscription = account.get("subscription", params.required("subscription"), "subscription")
    [(price, quantity, metadata)] = read_items(account, [params])
    added = new_item(account, subscription["id"], price, quantity, metadata, period_of(subscription))
    _change(account, params, subscription, [*subscription["items"]["data"], added])
    return retrieve(account, params, added["id"])


def retrieve(account: Account, _params: Params, item_id: str) -> Resource:
    """Returns one item."""
    return _find(account, item_id)[1]


def list_items(account: Account, params: Params) -> Resource:
    """Lists the items of one subscription."""
    items = account.get("subscription", params.required("subscription"), "subscription")["items"]
    return page_of(params, items["data"], lambda _: True, items["url"])


def update(account: Account, params: Params, item_id: str) -> Resource:
    """Changes price, quantity or metadata of an item."""
    subscription, item = _find(account, item_id)
    params.flag("off_session")
    changed = changed_item(account, params, item)
    after = [changed if current["id"] == item_id else current for current in subscription["items"]["data"]]
    _change(account, params, subscription, after)
    return retrieve(account, params, item_id)


def delete(account: Account, params: Params, item_id: str) -> Resource:
    """Removes an item from its subscription, which keeps at least one."""
    subscription, _ = _find(account, item_id)
    params.flag("clear_usage")
    after = [current for current in subscription["items"]["data"] if current["id"] != item_id]
    _change(account, params, subscription, after)
    return {"id": item_id, "object": "subscription_item", "deleted": True}


def _change(account: Account, params: Params, subscription: Resource, after: list[Resource]) -> None:
    behaviour = params.choice("payment_behavior", *_PAYMENT)
    if subscription["status"] in ENDED | {"incomplete"}:
        raise InvalidRequestError(f"The items of a subscription that is {subscription['status']} cannot be changed.")
    check_prices(account, [item["price"] for item in after], subscription["customer"])
    if len(after) > MAX_ITEMS:
        raise InvalidRequestError(f"A subscription has at most {MAX_ITEMS} items.", param="items")
    prorating = prorations.read(account, params, subscription)
    changed = change_items(account, subscription, after, prorating)
    refuse_if_unpaid(account, subscription, changed, behaviour)


def _find(account: Account, item_id: str) -> tuple[Resource, Resource]:
    for subscription in account.store.newest_first("subscription"):
        for item in subscription["items"]["data"]:
            if item["id"] == item_id:
                return subscription, item
    raise ResourceMissingError("subscription item", item_id[:200])


ENDPOINTS = [
    ("GET", "/v1/subscription_items", list_items),
    ("POST", "/v1/subscription_items", create),
    ("GET", "/v1/subscription_items/{id}", retrieve),
    ("POST", "/v1/subscription_items/{id}", update),
    ("DELETE", "/v1/subscription_items/{id}", delete),
]
