"""Products."""

from paybill_stripe_fake import events
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.store import Resource

_MAX_FEATURES = 15
_MAX_IMAGES = 8


def new(account: Account, name: str, *, identifier: str | None = None) -> Resource:
    """Returns a new active product, not stored yet."""
    now = account.now()
    return {
        "id": identifier or new_id("prod"),
        "object": "product",
        "active": True,
        "created": now,
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": {},
        "name": name,
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": now,
        "url": None,
    }


def create(account: Account, params: Params) -> Resource:
    """Creates a product, optionally under an id that the caller chooses."""
    identifier = params.text("id", longest=200)
    if identifier and account.store.find("product", identifier):
        raise InvalidRequestError(f"Product already exists: {identifier}", code="resource_already_exists", param="id")
    product = new(account, params.required("name", longest=250), identifier=identifier)
    return events.create(account, product | _changes(params, product))


def retrieve(account: Account, _params: Params, product_id: str) -> Resource:
    """Returns one product."""
    return account.get("product", product_id)


def list_products(account: Account, params: Params) -> Resource:
    """Lists products, newest first."""
    active, created, ids = params.flag("active"), params.within("created"), params.texts("ids", most=100)

    def matches(product: Resource) -> bool:
        return (
            active in {None, product["active"]}
            and created(product["created"])
            and (ids is None or product["id"] in ids)
        )

    return page(account, params, "product", matches, "/v1/products")


def update(account: Account, params: Params, product_id: str) -> Resource:
    """Changes the passed attributes."""
    product = account.get("product", product_id)
    changes = _changes(params, product)
    if params.has("name"):
        changes["name"] = params.required("name", longest=250)
    if params.has("default_price"):
        changes["default_price"] = account.get("price", params.required("default_price"), "default_price")["id"]
    changed = {key: value for key, value in changes.items() if product[key] != value}
    return events.change(account, product, {**changed, "updated": account.now()}) if changed else product


def delete(account: Account, _params: Params, product_id: str) -> Resource:
    """Deletes a product that has no prices."""
    product = account.get("product", product_id)
    if any(price["product"] == product_id for price in account.store.oldest_first("price")):
        raise InvalidRequestError(
            "This product cannot be deleted because it has one or more user-created prices.", param="id"
        )
    events.emit(account, "product.deleted", product)
    account.store.delete("product", product_id)
    return {"id": product_id, "object": "product", "deleted": True}


def _changes(params: Params, product: Resource) -> Resource:
    changes: Resource = {
        key: params.text(key) for key in ("description", "statement_descriptor", "unit_label") if params.has(key)
    }
    if (active := params.flag("active")) is not None:
        changes["active"] = active
    if params.has("url"):
        changes["url"] = params.url("url")
    if params.has("images"):
        changes["images"] = params.texts("images", most=_MAX_IMAGES) or []
    if params.has("marketing_features"):
        features = params.many("marketing_features", most=_MAX_FEATURES) or []
        changes["marketing_features"] = [{"name": feature.required("name", longest=80)} for feature in features]
    if params.has("metadata"):
        changes["metadata"] = params.metadata(product["metadata"])
    return changes


ENDPOINTS = [
    ("POST", "/v1/products", create),
    ("GET", "/v1/products", list_products),
    ("GET", "/v1/products/{id}", retrieve),
    ("POST", "/v1/products/{id}", update),
    ("DELETE", "/v1/products/{id}", delete),
]
