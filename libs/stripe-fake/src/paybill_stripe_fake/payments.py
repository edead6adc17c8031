"""Payment intents: attempts to charge a card for an invoice; and the balance of received money."""

from paybill_stripe_fake import charges, disputes, events
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import CardDeclinedError, InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.payment_methods import named_card, outcome_of
from paybill_stripe_fake.store import Resource

_MAX_AMOUNT = 99_999_999


def new_intent(
    account: Account, customer_id: str | None, amount: int, currency: str, description: str | None
) -> Resource:
    """Returns an intent to charge, before any attempt."""
    identifier = new_id("pi")
    intent = {
        "id": identifier,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic",
        "client_secret": f"{identifier}_{new_id('secret')}",
        "confirmation_method": "automatic",
        "created": account.now(),
        "currency": currency,
        "customer": customer_id,
        "customer_account": None,
        "description": description,
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            }
        },
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": "off_session",
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    }
    return events.create(account, intent)


def attempt(account: Account, intent: Resource, card_id: str | None, outcome: str | None = None) -> Resource:
    """Charges the card; its outcome, or `outcome`, decides whether the intent then is `succeeded`."""
    outcome = outcome or outcome_of(account, card_id)
    card = account.store.find("payment_method", card_id or "")
    succeeded = outcome not in {"fail", "action"}
    charge = charges.attempt(account, intent, card, succeeded=succeeded)
    intent = {**intent, "latest_charge": charge["id"], "next_action": None}
    if succeeded:
        paid = {
            "status": "succeeded",
            "amount_received": intent["amount"],
            "payment_method": card_id,
            "last_payment_error": None,
        }
        concluded = _concluded(account, {**intent, **paid}, "payment_intent.succeeded")
        if outcome in {"dispute", "inquiry"}:
            disputes.start(account, charge, inquiry=outcome == "inquiry")
        return concluded
    if outcome == "action":
        intent |= {
            "status": "requires_action",
            "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}},
            "payment_method": card_id,
        }
        return _concluded(account, intent, "payment_intent.requires_action")
    error = {
        "charge": charge["id"],
        "code": "card_declined",
        "decline_code": "generic_decline",
        "doc_url": "https://docs.stripe.com/error-codes/card-declined",
        "message": "Your card was declined.",
        "payment_method": card,
        "type": "card_error",
    }
    failed = {"status": "requires_payment_method", "last_payment_error": error}
    return _concluded(account, {**intent, **failed}, "payment_intent.payment_failed")


def create(account: Account, params: Params) -> Resource:
    """Creates a payment outside of any invoice; charged at once with `confirm`."""
    params.required("amount")
    amount = params.integer("amount", least=1, most=_MAX_AMOUNT) or 0
    customer = params.text("customer")
    if customer:
        account.get("customer", customer, "customer")
    intent = new_intent(
        account, customer, amount, params.required("currency").lower(), params.text("description", longest=1000)
    )
    params.texts("payment_method_types", most=1)
    _ignored(params)
    account.put({**intent, "metadata": params.metadata()})
    return confirm(account, params, intent["id"]) if params.flag("confirm") else account.get(*_of(intent))


def confirm(account: Account, params: Params, intent_id: str) -> Resource:
    """Charges the passed card; a declined card returns 402, and the attempt is recorded."""
    intent = account.get("payment_intent", intent_id)
    _refuse_unless_open(intent)
    named = params.required("payment_method")
    params.url("return_url")
    intent = attempt(account, intent, named_card(account, named, intent["customer"]))
    if intent["status"] == "requires_payment_method":
        raise CardDeclinedError(intent, keep=True)
    return intent


def cancel(account: Account, params: Params, intent_id: str) -> Resource:
    """Cancels a payment."""
    intent = account.get("payment_intent", intent_id)
    _refuse_unless_open(intent)
    why = params.choice("cancellation_reason", "abandoned", "duplicate", "fraudulent", "requested_by_customer")
    cancelled = {"status": "canceled", "canceled_at": account.now(), "cancellation_reason": why}
    return _concluded(account, {**intent, **cancelled}, "payment_intent.canceled")


def retrieve(account: Account, _params: Params, intent_id: str) -> Resource:
    """Returns one payment intent."""
    return account.get("payment_intent", intent_id)


def list_intents(account: Account, params: Params) -> Resource:
    """Lists payment intents, newest first."""
    customer, created = params.text("customer"), params.within("created")

    def matches(intent: Resource) -> bool:
        return customer in {None, intent["customer"]} and created(intent["created"])

    return page(account, params, "payment_intent", matches, "/v1/payment_intents")


def balance(account: Account, _params: Params) -> Resource:
    """Returns the sum received minus refunds and disputes, as available; no fees and no payouts."""
    received: dict[str, int] = {}
    for intent in account.store.oldest_first("payment_intent"):
        received[intent["currency"]] = received.get(intent["currency"], 0) + intent["amount_received"]
    for charge in account.store.oldest_first("charge"):
        received[charge["currency"]] -= charge["amount_refunded"]
    for dispute in account.store.oldest_first("dispute"):
        if dispute["status"] in {"needs_response", "under_review", "lost"}:
            received[dispute["currency"]] -= dispute["amount"]
    available = [
        {"amount": amount, "currency": currency, "source_types": {"card": amount}}
        for currency, amount in sorted((received or {"usd": 0}).items())
    ]
    pending = [{**funds, "amount": 0, "source_types": {"card": 0}} for funds in available]
    return {"object": "balance", "available": available, "livemode": False, "pending": pending}


def _ignored(params: Params) -> None:
    """Reads parameters that have no effect here."""
    params.url("return_url")
    if (shipping := params.nested("shipping")) is not None:
        shipping.text("name")
        if (address := shipping.nested("address")) is not None:
            for key in sorted(address.names()):
                address.text(key)


def _of(intent: Resource) -> tuple[str, str]:
    return "payment_intent", intent["id"]


def _refuse_unless_open(intent: Resource) -> None:
    if intent["status"] not in {"requires_payment_method", "requires_action"}:
        raise InvalidRequestError(f"This PaymentIntent is {intent['status']}.", code="payment_intent_unexpected_state")


def _concluded(account: Account, intent: Resource, event: str) -> Resource:
    account.put(intent)
    events.emit(account, event, intent)
    return intent


ENDPOINTS = [
    ("POST", "/v1/payment_intents", create),
    ("GET", "/v1/payment_intents", list_intents),
    ("GET", "/v1/payment_intents/{id}", retrieve),
    ("POST", "/v1/payment_intents/{id}/cancel", cancel),
    ("POST", "/v1/payment_intents/{id}/confirm", confirm),
    ("GET", "/v1/balance", balance),
]
