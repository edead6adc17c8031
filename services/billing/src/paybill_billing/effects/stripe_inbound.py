"""Stripe's webhooks: told from forged ones, and read without trusting anything that they say.

Source: https://docs.stripe.com/webhooks#verify-manually. The library's `construct_event` accepts times in the future
and builds objects that nobody needs; its check of the signature is used, and the rest is ours.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from stripe import SignatureVerificationError, WebhookSignature

from paybill_billing.domain.payments import Attempt
from paybill_billing.effects import Delivery, DeliveryRefusedError
from paybill_billing.effects.shapes import ShapeError, attempt, customer_of, subscription_of

TOLERANCE_S = 300
"""How far a message's time may be from ours, both ways."""

_HEADER = "stripe-signature"
_TIME = re.compile(r"(?:^|,)t=(\d{1,12})(?:,|$)")
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,255}")
_YEAR_5138 = 10**11


@dataclass(frozen=True, slots=True)
class StripeInbound:
    """`secrets` are all active: while one is being rolled, both sign."""

    secrets: tuple[str, ...]

    def receive(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Delivery:
        """The message in a request. Raises DeliveryRefusedError."""
        signature = headers.get(_HEADER)
        if not signature:
            _refuse("unsigned", "the header Stripe-Signature is missing")
        text = _text(body)
        self._verify(text, signature, now)
        return delivery_of(_object(text), now)

    def tells_of_failure(self, type_: str) -> bool:
        """Whether messages of this type tell of a failed attempt to collect."""
        return type_ == "invoice.payment_failed"

    def attempt(self, body: bytes) -> Attempt | None:
        """The failed attempt in such a message; None when it tells too little."""
        event = _object(_text(body))
        try:
            return attempt(event["id"], _item(event))
        except ShapeError:
            return None

    def _verify(self, text: str, signature: str, now: datetime) -> None:
        if not any(_signed(text, signature, secret) for secret in self.secrets):
            _refuse("bad_signature", "no active secret made this signature")
        match = _TIME.search(signature)
        if match is None:
            _refuse("bad_signature", "the signature has no time")
        ahead = int(match[1]) - now.timestamp()
        if ahead < -TOLERANCE_S:
            _refuse("stale", f"it was signed more than {TOLERANCE_S} s ago")
        if ahead > TOLERANCE_S:
            _refuse("future", f"it was signed more than {TOLERANCE_S} s in the future; check the clock of this machine")


def delivery_of(event: Mapping[str, Any], now: datetime) -> Delivery:
    """What an event of Stripe's is about; `now` stands for a time that it lacks. Raises DeliveryRefusedError."""
    event_id, type_, created = event.get("id"), event.get("type"), event.get("created")
    if not isinstance(event_id, str) or _NAME.fullmatch(event_id) is None:
        _refuse("missing_id", "the event has no usable id")
    if not isinstance(type_, str) or _NAME.fullmatch(type_) is None:
        _refuse("missing_type", "the event has no usable type")
    item = _item(event)
    return Delivery(
        event_id=event_id,
        type=type_,
        created=_time(created) or now,
        api_version=_name(event.get("api_version")),
        livemode=event.get("livemode") is True,
        object_type=_name(item.get("object")),
        object_id=_name(item.get("id")),
        customer=_name(customer_of(item)),
        target=_name(subscription_of(item)),
    )


def _signed(text: str, signature: str, secret: str) -> bool:
    try:
        return bool(WebhookSignature.verify_header(text, signature, secret))
    except (SignatureVerificationError, TypeError, ValueError):
        # TypeError: the library compares signatures that are not ASCII. Its error holds the body, so it ends here.
        return False


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        _refuse("not_utf8", "the body is no UTF-8")


def _object(text: str) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        _refuse("not_json", "the body is no JSON")
    if not isinstance(event, dict):
        _refuse("not_an_object", "the body is no JSON object")
    return event


def _item(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the event is about; empty when it says nothing of that kind."""
    data = event.get("data")
    item = data.get("object") if isinstance(data, dict) else None
    return item if isinstance(item, dict) else {}


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def _time(value: object) -> datetime | None:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int) and 0 < value < _YEAR_5138 else None


def _refuse(code: str, why: str) -> NoReturn:
    raise DeliveryRefusedError(code, why) from None
