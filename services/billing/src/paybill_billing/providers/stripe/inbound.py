"""Verification and parsing of Stripe's webhooks, snapshot and thin events; their content is not trusted.

Sources: https://docs.stripe.com/webhooks#verify-manually, https://docs.stripe.com/event-destinations#thin-events. The
library's `construct_event` accepts times in the future and builds unused objects; only its signature check is used.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, NoReturn

from paybill_runtime.http.strict_json import JsonError, object_of
from stripe import SignatureVerificationError, WebhookSignature

from paybill_billing.providers.port import Delivery, DeliveryRefusedError, MalformedObjectError
from paybill_billing.providers.port.snapshots import CollectionAttempt
from paybill_billing.providers.stripe.mappers import attempt, customer_of, subscription_of
from paybill_billing.providers.stripe.payment_mappers import (
    charge_target,
    expired_target,
    related,
    return_target,
    target_of,
)

TOLERANCE_S = 300
"""The largest difference between a message's time and ours, in both directions."""

THIN = "v2.core.event"
LOST = "v2.core.health.event_generation_failure.resolved"
"""An alert that an event was never created. It names the object of the missing event."""
_FAILED = frozenset({"invoice.payment_failed", "v1.invoice.payment_failed"})
_HEADER = "stripe-signature"
_TIME = re.compile(r"(?:^|,)t=(\d{1,12})(?:,|$)")
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,255}")
_TARGET = re.compile(r"[A-Za-z0-9_./\-]{1,300}")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')
_MAX_DEPTH = 200
_YEAR_5138 = 10**11


@dataclass(frozen=True, slots=True)
class StripeInbound:
    """Receiver of Stripe's webhooks. secrets: all active ones; during a rotation both sign.

    livemode, account: those of our Stripe account; None when they are unknown, and any is accepted.
    """

    secrets: tuple[str, ...]
    livemode: bool | None = None
    account: str | None = None

    def receive(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Delivery:
        """Returns the message in a request. Raises DeliveryRefusedError."""
        signature = headers.get(_HEADER)
        if not signature:
            _refuse("unsigned", "the header Stripe-Signature is missing")
        text = _text(body)
        self._verify(text, signature, now)
        event = _json_object(text)
        return replace(delivery_of(event, now), quarantine=self._quarantine_reason(event))

    def is_payment_failure(self, type_: str) -> bool:
        """Returns True for the types of messages about a failed attempt to collect."""
        return type_ in _FAILED

    def failed_attempt(self, event_id: str, body: bytes) -> CollectionAttempt | None:
        """Returns the failed attempt in such a message; None when the message lacks it, as a thin one does."""
        try:
            return attempt(event_id, _object_of(_json_object(_text(body))))
        except MalformedObjectError:
            return None

    def _quarantine_reason(self, event: Mapping[str, Any]) -> str | None:
        """Returns the reason to quarantine a signed message of another mode or account; None for one of ours."""
        live, account = event.get("livemode"), event.get("account") or event.get("context")
        if self.livemode is not None and isinstance(live, bool) and live is not self.livemode:
            modes = {True: "live mode", False: "test mode"}
            return f"it is a {modes[live]} message, and this installation uses {modes[self.livemode]}"
        if self.account is not None and isinstance(account, str) and account != self.account:
            return f"it belongs to an account other than {self.account}"
        return None

    def _verify(self, text: str, signature: str, now: datetime) -> None:
        if not any(_signed(text, signature, secret) for secret in self.secrets):
            _refuse("bad_signature", "no active secret matches this signature")
        match = _TIME.search(signature)
        if match is None:
            _refuse("bad_signature", "the signature has no time")
        ahead = int(match[1]) - now.timestamp()
        if ahead < -TOLERANCE_S:
            _refuse("stale", f"it was signed more than {TOLERANCE_S} s ago")
        if ahead > TOLERANCE_S:
            _refuse("future", f"it was signed more than {TOLERANCE_S} s in the future; check the clock of this machine")


def delivery_of(event: Mapping[str, Any], now: datetime) -> Delivery:
    """Returns the delivery of a Stripe event; `now` replaces a missing time. Raises DeliveryRefusedError."""
    event_id, type_ = event.get("id"), event.get("type")
    if not isinstance(event_id, str) or _NAME.fullmatch(event_id) is None:
        _refuse("missing_id", "the event has no usable id")
    if not isinstance(type_, str) or _NAME.fullmatch(type_) is None:
        _refuse("missing_type", "the event has no usable type")
    item = _related_object(event) if event.get("object") == THIN else _object_of(event)
    target = subscription_of(item) or return_target(type_, item) or expired_target(type_, item) or charge_target(item)
    if event.get("object") == THIN and target is None:
        target = _thin_target(event_id, type_, item)
    return Delivery(
        # A thin event has the id of its snapshot event, so that both count as one message.
        event_id=_name(event.get("snapshot_event")) or event_id,
        type=type_,
        created=_time(event.get("created")) or now,
        api_version=_name(event.get("api_version")),
        livemode=event.get("livemode") is True,
        object_type=_name(item.get("object")),
        object_id=_name(item.get("id")),
        customer=_name(customer_of(item)),
        target=target if target is not None and _TARGET.fullmatch(target) else None,
    )


def _signed(text: str, signature: str, secret: str) -> bool:
    try:
        return bool(WebhookSignature.verify_header(text, signature, secret))
    except (SignatureVerificationError, TypeError, ValueError):
        # TypeError: the library fails on signatures that are not ASCII. Its error contains the body, so it is dropped.
        return False


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        _refuse("not_utf8", "the body is not UTF-8")


def _json_object(text: str) -> dict[str, Any]:
    try:
        event = _parsed(text)
    except JsonError as error:
        _refuse(error.code, f"the body is refused: {error}")
    except ValueError:
        _refuse("not_json", "the body is not JSON")
    if not isinstance(event, dict):
        _refuse("not_an_object", "the body is not a JSON object")
    return event


def _parsed(text: str) -> Any:
    """Returns the value of a body. Raises ValueError; JsonError for a key that is repeated."""
    if text.count("{") + text.count("[") > _MAX_DEPTH and _depth(text) > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    return json.loads(text, object_pairs_hook=object_of)


def _depth(text: str) -> int:
    """Returns how deep arrays and objects are nested.

    json raises RecursionError when that is too deep. A garbage collection at that moment runs finalizers of unrelated
    objects, which then fail, too.
    """
    brackets = _STRING.sub("", text)
    return max(accumulate((each in "[{") - (each in "]}") for each in brackets), default=0)


def _object_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the object of the event; empty when it has none."""
    data = event.get("data")
    item = data.get("object") if isinstance(data, dict) else None
    return item if isinstance(item, dict) else {}


def _related_object(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the object of a thin event: only its kind and id."""
    kind, id_ = related(event) or (None, None)
    return {"object": kind, "id": id_}


def _thin_target(event_id: str, type_: str, item: Mapping[str, Any]) -> str | None:
    """Returns the object to fetch for a thin event; None for charges, of which only refunds and disputes matter."""
    kind, id_ = item.get("object"), item.get("id")
    if type_ == LOST:
        return target_of(kind, id_) if kind and id_ else f"event/{event_id}"
    return target_of(kind, id_) if kind and id_ and kind != "charge" else None


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def _time(value: object) -> datetime | None:
    """Parses Unix seconds, or RFC 3339 in thin events."""
    if isinstance(value, int) and 0 < value < _YEAR_5138:
        return datetime.fromtimestamp(value, UTC)
    try:
        parsed = datetime.fromisoformat(value) if isinstance(value, str) else None
        return parsed.astimezone(UTC) if parsed is not None and parsed.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _refuse(code: str, why: str) -> NoReturn:
    raise DeliveryRefusedError(code, why) from None
