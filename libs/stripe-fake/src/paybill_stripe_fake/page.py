"""HTML of the checkout page and the customer portal, served under the `url` of their sessions."""

from datetime import UTC, datetime
from html import escape

from paybill_stripe_fake.store import Resource

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:30rem;margin:4rem auto;padding:0 1rem;color:#222}"
    "table{width:100%;border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.4rem 0;border-bottom:1px solid #ddd;text-align:left}"
    "td:last-child{text-align:right}button{font:inherit;padding:.6rem 1.2rem;margin-right:.5rem;cursor:pointer}"
    ".declined{color:#a00}"
)


def checkout_page(session: Resource, lines: list[Resource], *, declined: bool = False) -> str:
    """Returns the page of a session in any state; an open session can be paid."""
    rows = "".join(
        f"<tr><td>{line['quantity']} x {escape(line['description'])}</td>"
        f"<td>{_money(line['amount_total'], line['currency'])}</td></tr>"
        for line in lines
    )
    off = session["total_details"]["amount_discount"]
    rows += f"<tr><td>Discount</td><td>-{_money(off, session['currency'])}</td></tr>" if off else ""
    total = f"<tr><th>Due today</th><td>{_money(session['amount_total'], session['currency'])}</td></tr>"
    return _page("Checkout", "Subscribe", f"<table>{rows}{total}</table>{_state(session, declined=declined)}")


def portal_page(
    secret: str, session: Resource, subscriptions: list[tuple[Resource, list[str]]], *, cancellable: bool
) -> str:
    """Returns the page with a customer's subscriptions and their products; each can be cancelled or resumed."""
    rows = "".join(
        _subscription(secret, subscription, names, cancellable=cancellable) for subscription, names in subscriptions
    )
    back = f'<p><a href="{escape(session["return_url"])}">Return</a></p>' if session["return_url"] else ""
    return _page("Customer portal", "Your subscriptions", (rows or "<p>There are no subscriptions.</p>") + back)


def _subscription(secret: str, subscription: Resource, names: list[str], *, cancellable: bool) -> str:
    until = datetime.fromtimestamp(subscription["items"]["data"][0]["current_period_end"], tz=UTC).strftime("%d %B %Y")
    ends = subscription["cancel_at"] is not None
    action, label = ("resume", "Keep it") if ends else ("cancel", "Cancel")
    button = (
        f'<form method="post" action="/fake/portal/{escape(secret)}">'
        f'<input type="hidden" name="subscription" value="{escape(subscription["id"])}">'
        f'<button name="action" value="{action}">{label}</button></form>'
        if ends or cancellable
        else ""
    )
    renewal = f"Ends on {until}" if ends else f"Renews on {until}"
    return f"<h2>{escape(', '.join(names))}</h2><p>{escape(subscription['status'])}. {renewal}.</p>{button}"


def _page(title: str, heading: str, content: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{heading}</h1><p>Stripe fake: no card is charged.</p>{content}</body></html>"
    )


def return_url(session: Resource) -> str:
    """Returns the address to which the customer returns after paying."""
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])


def _state(session: Resource, *, declined: bool) -> str:
    match session["status"]:
        case "complete":
            return f'<p>Paid. Thank you. <a href="{escape(return_url(session))}">Continue</a></p>'
        case "expired":
            return "<p>This session has expired.</p>"
        case _:
            message = '<p class="declined" role="alert">Your card was declined. Try another.</p>' if declined else ""
            back = escape(session["cancel_url"] or "")
            link = f'<p><a href="{back}">Cancel</a></p>' if back else ""
            return (
                f'{message}<form method="post" action="/fake/checkout/{escape(session["id"])}/pay">'
                f"{_promotion_code(session)}"
                '<button name="outcome" value="succeed">Pay with a valid card</button>'
                f"{_no_card(session)}"
                f'<button name="outcome" value="fail">Pay with a declined card</button></form>{link}'
            )


def _promotion_code(session: Resource) -> str:
    if not session["allow_promotion_codes"]:
        return ""
    return '<p><label>Promotion code <input name="promotion_code"></label></p>'


def _no_card(session: Resource) -> str:
    if session["amount_total"] or session["payment_method_collection"] != "if_required":
        return ""
    return '<button name="outcome" value="no_card">Start without a card</button>'


def _money(amount: int, currency: str) -> str:
    # Sufficient for a fake: every currency is shown with two decimals.
    return f"{amount // 100:,}.{amount % 100:02} {escape(currency.upper())}"
