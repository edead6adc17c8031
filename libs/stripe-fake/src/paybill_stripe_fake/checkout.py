"""Checkout sessions: a page on which a customer subscribes and pays."""

from paybill_stripe_fake import (
    adjustments,
    collection,
    coupons,
    customers,
    events,
    payments,
    prices,
    subscriptions,
    terms,
)
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import list_object, page, page_of
from paybill_stripe_fake.payment_methods import OUTCOMES, attach
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import existing_customer

NO_CARD = "no_card"
_SHORTEST_S, _LONGEST_S = 30 * 60, 24 * 3600
_NO_TEXT = dict.fromkeys(("after_submit", "shipping_address", "submit", "terms_of_service_acceptance"))


def create(account: Account, params: Params) -> Resource:
    """Opens a session in which a customer subscribes."""
    params.required("mode")
    params.choice("mode", "subscription")
    params.choice("ui_mode", "hosted_page")
    params.required("success_url")
    customer = params.text("customer")
    email = params.text("customer_email", longest=512)
    if customer and email:
        raise InvalidRequestError(
            "You may only specify one of these parameters: customer, customer_email.",
            code="parameters_exclusive",
            param="customer_email",
        )
    if customer:
        email = existing_customer(account, customer, "customer")["email"]
    ordered = params.many("line_items", most=terms.MAX_ITEMS) or []
    items = terms.read_items(account, ordered)
    terms.check_prices(account, [price for price, _, _ in items], customer, "line_items")
    order = params.nested("subscription_data") or Params({})
    agreed = {
        "metadata": order.metadata(),
        "description": order.text("description", longest=500),
        "trial_end": terms.read_trial_end(account, order),
        "without_card": terms.read_trial_settings(order)["end_behavior"]["missing_payment_method"],
    }
    agreed["tax_rates"] = adjustments.read_tax_rates(account, order, "default_tax_rates") or []
    agreed["item_tax_rates"] = [adjustments.read_tax_rates(account, item) or [] for item in ordered]
    now, identifier = account.now(), new_id("cs_test")
    total = 0 if agreed["trial_end"] else sum(prices.amount(price, quantity or 0) for price, quantity, _ in items)
    discounts, off = _discounts(account, params, items[0][0]["currency"], total)
    session = {
        "id": identifier,
        "object": "checkout.session",
        "adaptive_pricing": None,
        "after_expiration": None,
        "allow_promotion_codes": params.flag("allow_promotion_codes"),
        "amount_subtotal": total,
        "amount_total": total - off,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": params.choice("billing_address_collection", "auto", "required"),
        "cancel_url": params.url("cancel_url"),
        "client_reference_id": params.text("client_reference_id", longest=200),
        "client_secret": None,
        "collected_information": None,
        "consent": None,
        "consent_collection": None,
        "created": now,
        "currency": items[0][0]["currency"],
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": _NO_TEXT,
        "customer": customer,
        "customer_account": None,
        "customer_creation": None if customer else "always",
        "customer_details": _details(email, None) if email else None,
        "customer_email": None if customer else email,
        "discounts": discounts,
        "expires_at": params.integer("expires_at", least=now + _SHORTEST_S, most=now + _LONGEST_S) or now + _LONGEST_S,
        "integration_identifier": None,
        "invoice": None,
        "invoice_creation": None,
        "livemode": False,
        "locale": params.text("locale", longest=10),
        "metadata": params.metadata(),
        "mode": "subscription",
        "origin_context": None,
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": params.choice("payment_method_collection", "always", "if_required") or "always",
        "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": params.texts("payment_method_types", most=1) or ["card"],
        "payment_status": "unpaid",
        "permissions": None,
        "phone_number_collection": {"enabled": False},
        "recovered_from": None,
        "saved_payment_method_options": {
            "allow_redisplay_filters": ["always"],
            "payment_method_remove": "disabled",
            "payment_method_save": None,
        },
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": None,
        "subscription": None,
        "success_url": params.url("success_url"),
        "total_details": {"amount_discount": off, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{account.base_url}/fake/checkout/{identifier}",
        "wallet_options": None,
    }
    if session["payment_method_types"] != ["card"]:
        raise InvalidRequestError("The fake accepts cards only.", param="payment_method_types")
    lines = [{"price": price["id"], "quantity": quantity, "metadata": metadata} for price, quantity, metadata in items]
    account.store.put("order", identifier, {"lines": lines, **agreed})
    return account.put(session)


def retrieve(account: Account, _params: Params, session_id: str) -> Resource:
    """Returns one session."""
    return account.get("checkout.session", session_id)


def list_sessions(account: Account, params: Params) -> Resource:
    """Lists sessions, newest first."""
    exact = {"customer": params.text("customer"), "subscription": params.text("subscription")}
    exact["status"] = params.choice("status", "open", "complete", "expired")
    created = params.within("created")

    def matches(session: Resource) -> bool:
        return created(session["created"]) and all(value in {None, session[key]} for key, value in exact.items())

    return page(account, params, "checkout.session", matches, "/v1/checkout/sessions")


def list_lines(account: Account, params: Params, session_id: str) -> Resource:
    """Lists the line items of a session."""
    lines = line_items(account, account.get("checkout.session", session_id))
    return page_of(params, lines["data"], lambda _: True, lines["url"])


def line_items(account: Account, session: Resource) -> Resource:
    """Returns the list that `expand[]=line_items` shows."""
    url = f"/v1/checkout/sessions/{session['id']}/line_items"
    return list_object([_line(account, session, line) for line in account.get("order", session["id"])["lines"]], url)


def expire(account: Account, _params: Params, session_id: str) -> Resource:
    """Closes an open session."""
    session = account.get("checkout.session", session_id)
    _refuse_unless_open(session)
    return expired(account, session)


def expired(account: Account, session: Resource) -> Resource:
    """Marks a session as expired; it can no longer be paid."""
    closed = account.put({**session, "status": "expired", "url": None})
    events.emit(account, "checkout.session.expired", closed)
    return closed


def pay(account: Account, params: Params, session_id: str) -> Resource:
    """Pays with a card whose charges end with `outcome`; after a declined card the session stays open.

    `no_card` starts a trial, or what costs nothing today, where the session requires no card for that.
    """
    params.required("outcome")
    outcome = params.choice("outcome", *OUTCOMES, NO_CARD) or ""
    code = params.text("promotion_code", longest=100)
    email = params.text("email", longest=512)
    session = account.get("checkout.session", session_id)
    _refuse_unless_open(session)
    if code is not None:
        session = _with_code(account, session, code)
    if outcome == NO_CARD and (session["amount_total"] or session["payment_method_collection"] != "if_required"):
        raise InvalidRequestError("This session requires a card.", param="outcome")
    customer = _customer(account, session, email)
    if outcome == "fail" and session["amount_total"]:
        purpose = "Subscription creation"
        intent = payments.new_intent(account, customer["id"], session["amount_total"], session["currency"], purpose)
        payments.attempt(account, intent, None, "fail")
        return account.put({**session, "customer": customer["id"]})
    card = None if outcome == NO_CARD else attach(account, customer, outcome)["id"]
    return _completed(account, session, customer, card)


def _discounts(account: Account, params: Params, currency: str, total: int) -> tuple[list[Resource] | None, int]:
    """Returns the discounts of a session, and what they take off its total."""
    named = params.many("discounts", most=1)
    if not named:
        return None, 0
    if params.has("allow_promotion_codes"):
        raise InvalidRequestError(
            "You may only specify one of these parameters: allow_promotion_codes, discounts.",
            code="parameters_exclusive",
            param="discounts",
        )
    coupon, code = coupons.find(account, named[0])
    coupons.check_currency(coupon, currency, named[0].name("coupon"))
    return [_shown(coupon, code)], coupons.off(coupon, total)


def _with_code(account: Account, session: Resource, code: str) -> Resource:
    """Returns the session with the promotion code that the customer entered on its page."""
    if not session["allow_promotion_codes"]:
        raise InvalidRequestError("This session takes no promotion codes.", param="promotion_code")
    coupon, found = coupons.entered(account, code)
    coupons.check_currency(coupon, session["currency"], "promotion_code")
    off = coupons.off(coupon, session["amount_subtotal"])
    return account.put(
        {
            **session,
            "amount_total": session["amount_subtotal"] - off,
            "discounts": [_shown(coupon, found)],
            "total_details": {**session["total_details"], "amount_discount": off},
        }
    )


def _shown(coupon: Resource, code: Resource | None) -> Resource:
    if code is not None:
        return {"coupon": None, "promotion_code": code["id"]}
    return {"coupon": coupon["id"], "promotion_code": None}


def _granted(account: Account, session: Resource, customer: str) -> list[str]:
    """Returns the ids of the discounts that the customer gets with this session."""
    granted = []
    for shown in session["discounts"] or []:
        code = account.get("promotion_code", shown["promotion_code"]) if shown["promotion_code"] else None
        coupon = account.get("coupon", code["promotion"]["coupon"] if code else shown["coupon"])
        granted.append(coupons.granted(account, coupon, code, customer, session["id"]))
    return granted


def _completed(account: Account, session: Resource, customer: Resource, card: str | None) -> Resource:
    order = account.get("order", session["id"])
    trial_end = order["trial_end"]
    items = [(account.get("price", line["price"]), line["quantity"], line["metadata"]) for line in order["lines"]]
    agreed = terms.Terms(
        customer=customer["id"],
        items=items,
        metadata=order["metadata"],
        description=order["description"],
        card=card,
        trial_end=trial_end if trial_end and trial_end > account.now() else None,
        without_card=order.get("without_card", "create_invoice"),
        item_adjustments=[{"tax_rates": rates} for rates in order.get("item_tax_rates", [])],
        tax_rates=order.get("tax_rates", []),
        discounts=_granted(account, session, customer["id"]),
    )
    subscription, invoice = subscriptions.start(account, agreed)
    if invoice["status"] == "open":
        collection.collect(account, invoice, outcome="succeed")
    complete = {
        **session,
        "customer": customer["id"],
        "customer_details": _details(customer["email"], customer["name"]),
        "invoice": invoice["id"],
        "payment_status": "paid" if session["amount_total"] else "no_payment_required",
        "status": "complete",
        "subscription": subscription["id"],
        "url": None,
    }
    account.put(complete)
    events.emit(account, "checkout.session.completed", complete)
    return complete


def _customer(account: Account, session: Resource, email: str | None) -> Resource:
    if session["customer"]:
        return existing_customer(account, session["customer"])
    return events.create(account, customers.new(account, email=session["customer_email"] or email))


def _details(email: str | None, name: str | None) -> Resource:
    return {
        "address": None,
        "business_name": None,
        "email": email,
        "individual_name": None,
        "name": name,
        "phone": None,
        "tax_exempt": "none",
        "tax_ids": [],
    }


def _line(account: Account, session: Resource, line: Resource) -> Resource:
    price = account.get("price", line["price"])
    total = prices.amount(price, line["quantity"] or 0)
    return {
        "id": f"li_{session['id'][-16:]}{line['price'][-8:]}",
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": total,
        "amount_tax": 0,
        "amount_total": total,
        "currency": price["currency"],
        "description": account.get("product", price["product"])["name"],
        "metadata": line["metadata"],
        "price": price,
        "quantity": line["quantity"],
    }


def _refuse_unless_open(session: Resource) -> None:
    if session["status"] != "open":
        raise InvalidRequestError(
            f'Only Checkout Sessions with a status in ["open"] can do this; this one is {session["status"]}.'
        )


ENDPOINTS = [
    ("POST", "/v1/checkout/sessions", create),
    ("GET", "/v1/checkout/sessions", list_sessions),
    ("GET", "/v1/checkout/sessions/{id}", retrieve),
    ("GET", "/v1/checkout/sessions/{id}/line_items", list_lines),
    ("POST", "/v1/checkout/sessions/{id}/expire", expire),
]
