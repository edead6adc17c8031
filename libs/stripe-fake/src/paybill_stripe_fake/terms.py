"""Terms of a subscription: prices and quantities, parsed from a request and made into a subscription."""

from dataclasses import dataclass, field

from paybill_stripe_fake import prices
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.billing_cycle import period_end
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import list_object
from paybill_stripe_fake.store import Resource

MAX_ITEMS = 20
_MAX_QUANTITY = 1_000_000
_MAX_TRIAL_DAYS = 730
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Terms of a new subscription.

    items: price, quantity and metadata of each; all of one currency and one interval. item_adjustments: discounts and
    tax rates of the items, in their order; empty for none. discounts, tax_rates: of the whole subscription.
    card: pays for this subscription instead of the customer's default.
    trial_end: Unix seconds; until then nothing is owed. without_card: `missing_payment_method` of its end.
    """

    customer: str
    items: list[tuple[Resource, int | None, dict[str, str]]]
    metadata: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    card: str | None = None
    trial_end: int | None = None
    cancel_at_period_end: bool = False
    cancel_at: int | None = None
    without_card: str = "create_invoice"
    schedule: str | None = None
    item_adjustments: list[Resource] = field(default_factory=list)
    discounts: list[str] = field(default_factory=list)
    tax_rates: list[Resource] = field(default_factory=list)


def read_items(account: Account, items: list[Params]) -> list[tuple[Resource, int | None, dict[str, str]]]:
    """Returns prices, quantities and metadata of new items; a metered item has no quantity."""
    priced = [(item, read_price(account, item)) for item in items]
    return [(price, read_quantity(item, price), item.metadata()) for item, price in priced]


def check_prices(account: Account, priced: list[Resource], customer: str | None, param: str = "items") -> None:
    """Refuses prices with different intervals or currencies, or with another currency than the customer's."""
    if not priced:
        raise InvalidRequestError("A subscription needs at least one item.", param=param)
    currency = account.get("customer", customer)["currency"] if customer else None
    if currency not in {None, priced[0]["currency"]}:
        raise InvalidRequestError(
            f"You cannot combine currencies on a single customer; this one is billed in {currency}.", param=param
        )
    if len({(price["currency"], *rhythm(price)) for price in priced}) > 1:
        raise InvalidRequestError(
            "Currency and interval fields must match across all prices on this subscription.", param=param
        )


def read_trial_end(account: Account, params: Params) -> int | None:
    """Returns the end of the trial from `trial_period_days` or `trial_end`."""
    days = params.integer("trial_period_days", least=1, most=_MAX_TRIAL_DAYS)
    if params.has("trial_end") and params.text("trial_end") == "now":
        return None
    until = params.integer("trial_end", least=account.now() + 1, most=account.now() + _MAX_TRIAL_DAYS * _DAY_S)
    return account.now() + days * _DAY_S if days else until


def read_trial_settings(params: Params) -> Resource:
    """Returns the behaviour at the end of a trial without a card."""
    settings = params.nested("trial_settings") or Params({})
    behaviour = settings.nested("end_behavior") or Params({})
    missing = behaviour.choice("missing_payment_method", "cancel", "create_invoice", "pause") or "create_invoice"
    return {"end_behavior": {"missing_payment_method": missing}}


def new_subscription(account: Account, terms: Terms) -> Resource:
    """Returns a subscription whose first period has begun, not stored yet."""
    now, identifier = account.now(), new_id("sub")
    recurring = terms.items[0][0]["recurring"]
    anchor = terms.trial_end or now
    finish = period_end(anchor, now, recurring["interval"], recurring["interval_count"])
    ending = terms.cancel_at_period_end or terms.cancel_at
    data = [
        new_item(account, identifier, price, quantity, metadata, (now, finish))
        for price, quantity, metadata in terms.items
    ]
    data = [item | more for item, more in zip(data, terms.item_adjustments or [{}] * len(data), strict=True)]
    return {
        "id": identifier,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": anchor,
        "billing_cycle_anchor_config": None,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "billing_schedules": [],
        "billing_thresholds": None,
        "cancel_at": finish if terms.cancel_at_period_end else terms.cancel_at,
        "cancel_at_period_end": terms.cancel_at_period_end,
        "canceled_at": now if ending else None,
        "cancellation_details": {
            "comment": None,
            "feedback": None,
            "reason": "cancellation_requested" if ending else None,
        },
        "collection_method": "charge_automatically",
        "created": now,
        "currency": terms.items[0][0]["currency"],
        "customer": terms.customer,
        "customer_account": None,
        "days_until_due": None,
        "default_payment_method": terms.card,
        "default_source": None,
        "default_tax_rates": terms.tax_rates,
        "description": terms.description,
        "discounts": terms.discounts,
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": list_object(data, f"/v1/subscription_items?subscription={identifier}"),
        "latest_invoice": new_id("in"),
        "livemode": False,
        "metadata": terms.metadata,
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": terms.schedule,
        "start_date": now,
        "status": "trialing" if terms.trial_end else "incomplete",
        "test_clock": None,
        "transfer_data": None,
        "trial_end": terms.trial_end,
        "trial_settings": {"end_behavior": {"missing_payment_method": terms.without_card}},
        "trial_start": now if terms.trial_end else None,
    }


def new_item(
    account: Account,
    subscription: str,
    price: Resource,
    quantity: int | None,
    metadata: dict[str, str],
    period: tuple[int, int],
) -> Resource:
    """Returns an item of a subscription, for its current period."""
    licensed = {} if quantity is None else {"quantity": quantity}
    return {
        "id": new_id("si"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": account.now(),
        "current_period_end": period[1],
        "current_period_start": period[0],
        "discounts": [],
        "metadata": metadata,
        "plan": prices.plan_of(price),
        "price": price,
        **licensed,
        "subscription": subscription,
        "tax_rates": [],
    }


def read_price(account: Account, item: Params) -> Resource:
    """Returns the price of an item, which is recurring and active, or passed as `price_data`."""
    data = item.nested("price_data")
    price = prices.inline(account, data) if data else account.get("price", item.required("price"), item.name("price"))
    if not price["active"] and data is None:
        raise InvalidRequestError(
            "The price specified is inactive. This field only accepts active prices.", param=item.name("price")
        )
    if price["type"] != "recurring":
        raise InvalidRequestError(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.",
            param=item.name("price"),
        )
    return price


def read_quantity(item: Params, price: Resource) -> int | None:
    """Returns the quantity of an item, 1 by default; None for a metered one."""
    quantity = item.integer("quantity", most=_MAX_QUANTITY)
    if not prices.is_metered(price):
        return 1 if quantity is None else quantity
    if quantity is not None:
        raise InvalidRequestError("A metered price takes no quantity.", param=item.name("quantity"))
    return None


def rhythm(price: Resource) -> tuple[str, int]:
    """Returns the billing interval of a price."""
    return price["recurring"]["interval"], price["recurring"]["interval_count"]
