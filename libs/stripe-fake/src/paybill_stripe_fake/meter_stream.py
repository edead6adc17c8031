"""Usage in version 2 of the API: validated at once, or streamed with errors reported later."""

from paybill_stripe_fake import meter_errors, meters, thin_events
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource

STREAM = "/v2/billing/meter_event_stream"
_SESSION_S = 15 * 60
_MAX_EVENTS = 100


def open_session(account: Account, _params: Params) -> Resource:
    """Returns a token that allows streaming usage for 15 minutes."""
    now, token = account.now(), new_id("token")
    account.store.put("meter_session", token, {"until": now + _SESSION_S})
    return {
        "id": new_id("mes"),
        "object": "v2.billing.meter_event_session",
        "authentication_token": token,
        "created": thin_events.iso(now),
        "expires_at": thin_events.iso(now + _SESSION_S),
        "livemode": False,
    }


def may_stream(account: Account, token: str) -> bool:
    """Returns whether this token belongs to a session that has not expired."""
    session = account.store.find("meter_session", token)
    return session is not None and session["until"] > account.now()


def report(account: Account, params: Params) -> Resource:
    """Records usage that is validated before the response."""
    event = meters.take(account, *_event(account, params))
    times = {key: thin_events.iso(event[key]) for key in ("created", "timestamp")}
    return {**event, **times, "object": "v2.billing.meter_event"}


def stream(account: Account, params: Params) -> Resource:
    """Records usage that is validated after the response."""
    for event in params.many("events", most=_MAX_EVENTS) or []:
        name, payload, at, identifier = _event(account, event)
        try:
            meters.take(account, name, payload, at, identifier)
        except InvalidRequestError as error:
            meter_errors.report(account, meters.active(account, name), str(error.code), error.message, identifier)
    return {}


def _event(account: Account, params: Params) -> tuple[str, dict[str, str], int, str]:
    name, timestamp = params.required("event_name", longest=100), params.text("timestamp", longest=40)
    try:
        at = thin_events.seconds(timestamp) if timestamp else account.now()
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(f"Invalid timestamp: {timestamp}", param=params.name("timestamp")) from error
    return name, meters.read_payload(params), at, meters.read_identifier(params)


ENDPOINTS = [
    ("POST", "/v2/billing/meter_event_session", open_session),
    ("POST", STREAM, stream),
    ("POST", "/v2/billing/meter_events", report),
]
