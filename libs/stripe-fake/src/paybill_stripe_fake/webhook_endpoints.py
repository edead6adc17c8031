"""Webhook endpoints: the one from the command line and those that clients create."""

import ipaddress
from urllib.parse import urlsplit

from paybill_stripe_fake import API_VERSION, deliveries
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.deliveries import PAYLOADS, STATIC_ID
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.store import Resource

_MAX_EVENTS = 500


def is_loopback(host: str | None) -> bool:
    """Returns whether a host is this machine, by its name or address alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def set_static(account: Account, url: str | None, secrets: list[str]) -> None:
    """Sets URL and secrets of the command line's endpoint; its secrets are not stored in the state file."""
    current = account.store.find("webhook_endpoint", STATIC_ID)
    if url is None:
        if current is not None:
            deliveries.drop(account, STATIC_ID)
            account.store.delete("webhook_endpoint", STATIC_ID)
    elif current is None or current["url"] != url:
        account.put(_endpoint(account, STATIC_ID, url, ["*"]))
    account.static_secrets = tuple(secrets)


def signing_secrets(account: Account, endpoint_id: str) -> tuple[str, ...]:
    """Returns the secrets that sign for an endpoint; several while one is being replaced."""
    if endpoint_id == STATIC_ID:
        return account.static_secrets
    return (str((account.store.find("webhook_secret", endpoint_id) or {})["secret"]),)


def create(account: Account, params: Params) -> Resource:
    """Creates an endpoint; only this response holds its secret."""
    params.choice("api_version", API_VERSION)
    endpoint = {
        **_endpoint(account, new_id("we"), _url(account, params), _events(params) or []),
        "description": params.text("description"),
        "metadata": params.metadata(),
    }
    if not endpoint["enabled_events"]:
        raise InvalidRequestError(
            "Missing required param: enabled_events.", code="parameter_missing", param="enabled_events"
        )
    secret = new_id("whsec")
    account.put(endpoint)
    account.store.put("webhook_secret", endpoint["id"], {"secret": secret})
    return {**endpoint, "secret": secret}


def retrieve(account: Account, _params: Params, endpoint_id: str) -> Resource:
    """Returns one endpoint."""
    return account.get("webhook_endpoint", endpoint_id)


def list_endpoints(account: Account, params: Params) -> Resource:
    """Lists endpoints, newest first."""
    return page(account, params, "webhook_endpoint", lambda _: True, "/v1/webhook_endpoints")


def update(account: Account, params: Params, endpoint_id: str) -> Resource:
    """Changes URL, event types, or whether the endpoint is disabled."""
    endpoint = account.get("webhook_endpoint", endpoint_id)
    disabled, enabled_events = params.flag("disabled"), _events(params)
    changed = {
        **endpoint,
        "url": _url(account, params) if params.has("url") else endpoint["url"],
        "enabled_events": enabled_events or endpoint["enabled_events"],
        "metadata": params.metadata(endpoint["metadata"]),
    }
    if params.has("description"):
        changed["description"] = params.text("description")
    if disabled is not None:
        changed["status"] = "disabled" if disabled else "enabled"
    if disabled:
        deliveries.drop(account, endpoint_id)
    return account.put(changed)


def delete(account: Account, _params: Params, endpoint_id: str) -> Resource:
    """Removes an endpoint and its queued deliveries."""
    account.get("webhook_endpoint", endpoint_id)
    deliveries.drop(account, endpoint_id)
    account.store.delete("webhook_endpoint", endpoint_id)
    account.store.delete("webhook_secret", endpoint_id)
    account.store.delete("payload", endpoint_id)
    return {"id": endpoint_id, "object": "webhook_endpoint", "deleted": True}


def set_payload(account: Account, params: Params, endpoint_id: str) -> Resource:
    """Sets the payload style: snapshots, thin events or both."""
    account.get("webhook_endpoint", endpoint_id)
    params.required("payload")
    payload = params.choice("payload", *PAYLOADS)
    account.store.put("payload", endpoint_id, {"payload": payload})
    return {"id": endpoint_id, "payload": payload}


def _endpoint(account: Account, identifier: str, url: str, enabled_events: list[str]) -> Resource:
    return {
        "id": identifier,
        "object": "webhook_endpoint",
        "api_version": API_VERSION,
        "application": None,
        "created": account.now(),
        "description": None,
        "enabled_events": enabled_events,
        "livemode": False,
        "metadata": {},
        "status": "enabled",
        "url": url,
    }


def _events(params: Params) -> list[str] | None:
    return params.texts("enabled_events", most=_MAX_EVENTS)


def _url(account: Account, params: Params) -> str:
    params.required("url")
    url = params.url("url") or ""
    if not account.allow_remote and not is_loopback(urlsplit(url).hostname):
        raise InvalidRequestError(
            "Webhooks go to this machine only; start with --allow-remote to send them elsewhere.",
            code="url_invalid",
            param="url",
        )
    return url


ENDPOINTS = [
    ("POST", "/v1/webhook_endpoints", create),
    ("GET", "/v1/webhook_endpoints", list_endpoints),
    ("GET", "/v1/webhook_endpoints/{id}", retrieve),
    ("POST", "/v1/webhook_endpoints/{id}", update),
    ("DELETE", "/v1/webhook_endpoints/{id}", delete),
]
