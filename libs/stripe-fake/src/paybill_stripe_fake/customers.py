"""Customers, with their default cards."""

from paybill_stripe_fake import events, payment_methods, schedules, subscription_state
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.store import Resource

_TEXTS = {"description": 5000, "email": 512, "name": 256, "phone": 20}
_MAX_BALANCE = 10**12
_ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")


def new(account: Account, *, email: str | None = None, name: str | None = None) -> Resource:
    """Returns a new customer with a zero balance, not stored yet."""
    return {
        "id": new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": account.now(),
        "currency": None,
        "customer_account": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": email,
        "invoice_prefix": new_id("x")[2:10].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": name,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def create(account: Account, params: Params) -> Resource:
    """Creates a customer, optionally with one of Stripe's test cards."""
    customer = new(account)
    customer |= _changes(params, customer)
    card, default = _cards(params)
    events.create(account, customer)
    if card:
        attached = payment_methods.attach_named(account, customer, card, "payment_method")
        default = attached["id"] if default == card else default
    return _with_default(account, customer, default)


def retrieve(account: Account, _params: Params, customer_id: str) -> Resource:
    """Returns one customer; a deleted customer shows only that it is deleted."""
    return account.get("customer", customer_id)


def list_customers(account: Account, params: Params) -> Resource:
    """Lists customers, newest first."""
    email, created = params.text("email", longest=512), params.within("created")

    def matches(customer: Resource) -> bool:
        return created(customer["created"]) and email in {None, customer["email"]}

    return page(account, params, "customer", matches, "/v1/customers")


def update(account: Account, params: Params, customer_id: str) -> Resource:
    """Changes the passed attributes."""
    customer = subscription_state.existing_customer(account, customer_id)
    _, default = _cards(params, creating=False)
    changed = events.change(account, customer, _changes(params, customer))
    return _with_default(account, changed, default)


def delete(account: Account, _params: Params, customer_id: str) -> Resource:
    """Deletes a customer permanently and cancels all of its subscriptions, also those that have not begun."""
    customer = subscription_state.existing_customer(account, customer_id)
    for subscription in account.store.oldest_first("subscription"):
        if subscription["customer"] == customer_id and subscription["status"] not in subscription_state.ENDED:
            subscription_state.end(account, subscription, "cancellation_requested")
    for schedule in account.store.oldest_first("subscription_schedule"):
        if schedule["customer"] == customer_id and schedule["status"] == "not_started":
            schedules.cancel_before_start(account, schedule)
    events.emit(account, "customer.deleted", customer)
    return account.put({"id": customer_id, "object": "customer", "deleted": True})


def _changes(params: Params, customer: Resource) -> Resource:
    changes: Resource = {key: params.text(key, longest=longest) for key, longest in _TEXTS.items() if params.has(key)}
    if params.has("address"):
        address = params.nested("address")
        changes["address"] = address and {key: address.text(key) for key in _ADDRESS}
    if params.has("preferred_locales"):
        changes["preferred_locales"] = params.texts("preferred_locales", most=20) or []
    if params.has("tax_exempt"):
        changes["tax_exempt"] = params.choice("tax_exempt", "none", "exempt", "reverse") or "none"
    if (balance := params.integer("balance", least=-_MAX_BALANCE, most=_MAX_BALANCE)) is not None:
        changes["balance"] = balance
    if params.has("metadata"):
        changes["metadata"] = params.metadata(customer["metadata"])
    return changes


def _cards(params: Params, *, creating: bool = True) -> tuple[str | None, str | None]:
    settings = params.nested("invoice_settings")
    default = settings.text("default_payment_method") if settings else None
    # Older clients pass the default card as `source`.
    if source := params.text("source"):
        default = source.replace("tok_", "pm_card_", 1)
    return params.text("payment_method") if creating else None, default


def _with_default(account: Account, customer: Resource, card: str | None) -> Resource:
    if card is None:
        return customer
    attached = payment_methods.attach_named(account, customer, card, "invoice_settings[default_payment_method]")
    settings = {**customer["invoice_settings"], "default_payment_method": attached["id"]}
    return events.change(account, customer, {"invoice_settings": settings})


ENDPOINTS = [
    ("POST", "/v1/customers", create),
    ("GET", "/v1/customers", list_customers),
    ("GET", "/v1/customers/{id}", retrieve),
    ("POST", "/v1/customers/{id}", update),
    ("DELETE", "/v1/customers/{id}", delete),
]
