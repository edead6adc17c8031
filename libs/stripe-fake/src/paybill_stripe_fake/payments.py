"""Payment intents: the attempts to charge a card for an invoice; and the balance of what came in."""

from paybill_stripe_fake import events
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.payment_methods import outcome_of
from paybill_stripe_fake.store import Resource


def new_intent(account: Account, customer_id: str, amount: int, currency: str, description: str) -> Resource:
    """An intent to charge, before any attempt."""
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
    """Charge the card; its outcome, or the one given, decides whether the intent then is `succeeded`."""
    if (outcome or outcome_of(account, card_id)) == "succeed":
        paid = {
            "status": "succeeded",
            "amount_received": intent["amount"],
            "payment_method": card_id,
            "last_payment_error": None,
        }
        return _concluded(account, {**intent, **paid}, "payment_intent.succeeded")
    error = {
        "code": "card_declined",
        "decline_code": "generic_decline",
        "doc_url": "https://docs.stripe.com/error-codes/card-declined",
        "message": "Your card was declined.",
        "payment_method": account.store.find("payment_method", card_id or ""),
        "type": "card_error",
    }
    return _concluded(account, {**intent, "last_payment_error": error}, "payment_intent.payment_failed")


def retrieve(account: Account, _params: Params, intent_id: str) -> Resource:
    """One payment intent."""
    return account.get("payment_intent", intent_id)


def list_intents(account: Account, params: Params) -> Resource:
    """Payment intents, the last first."""
    customer, created = params.text("customer"), params.within("created")

    def wanted(intent: Resource) -> bool:
        return customer in {None, intent["customer"]} and created(intent["created"])

    return page(account, params, "payment_intent", wanted, "/v1/payment_intents")


def balance(account: Account, _params: Params) -> Resource:
    """All that was ever received, as available; no fees and no payouts."""
    received: dict[str, int] = {}
    for intent in account.store.oldest_first("payment_intent"):
        received[intent["currency"]] = received.get(intent["currency"], 0) + intent["amount_received"]
    available = [
        {"amount": amount, "currency": currency, "source_types": {"card": amount}}
        for currency, amount in sorted((received or {"usd": 0}).items())
    ]
    pending = [{**funds, "amount": 0, "source_types": {"card": 0}} for funds in available]
    return {"object": "balance", "available": available, "livemode": False, "pending": pending}


def _concluded(account: Account, intent: Resource, event: str) -> Resource:
    account.put(intent)
    events.emit(account, event, intent)
    return intent


ENDPOINTS = [
    ("GET", "/v1/payment_intents", list_intents),
    ("GET", "/v1/payment_intents/{id}", retrieve),
    ("GET", "/v1/balance", balance),
]
