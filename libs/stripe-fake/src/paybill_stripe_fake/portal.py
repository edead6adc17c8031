"""The customer portal: links to a page on which customers cancel and resume subscriptions."""

from paybill_stripe_fake import events, periods
from paybill_stripe_fake.account import Account, new_id
from paybill_stripe_fake.errors import InvalidRequestError, ResourceMissingError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.lists import page
from paybill_stripe_fake.prorations import BEHAVIOURS
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.subscription_state import ENDED, change, existing_customer, period_of

ACTIONS = ("cancel", "resume")
_MODES = ("at_period_end", "immediately")
_TEXTS = ("headline", "privacy_policy_url", "terms_of_service_url")


def create_configuration(account: Account, params: Params) -> Resource:
    """Creates a configuration of what customers may do."""
    configuration = _configuration(account)
    return events.create(account, configuration | _changes(params, configuration))


def retrieve_configuration(account: Account, _params: Params, configuration_id: str) -> Resource:
    """Returns one configuration."""
    return account.get("billing_portal.configuration", configuration_id)


def list_configurations(account: Account, params: Params) -> Resource:
    """Lists configurations, newest first."""
    exact = {key: params.flag(key) for key in ("active", "is_default")}

    def matches(configuration: Resource) -> bool:
        return all(value in {None, configuration[key]} for key, value in exact.items())

    return page(account, params, "billing_portal.configuration", matches, "/v1/billing_portal/configurations")


def update_configuration(account: Account, params: Params, configuration_id: str) -> Resource:
    """Changes a configuration."""
    configuration = account.get("billing_portal.configuration", configuration_id)
    changes = _changes(params, configuration)
    if (active := params.flag("active")) is not None:
        changes["active"] = active
    return events.change(account, configuration, {**changes, "updated": account.now()})


def create_session(account: Account, params: Params) -> Resource:
    """Creates a link for one customer."""
    customer = existing_customer(account, params.required("customer"), "customer")
    named = params.text("configuration")
    configuration = account.get("billing_portal.configuration", named, "configuration") if named else _default(account)
    secret = new_id("test")
    session = {
        "id": new_id("bps"),
        "object": "billing_portal.session",
        "after_expiration": None,
        "configuration": configuration["id"],
        "created": account.now(),
        "customer": customer["id"],
        "customer_account": None,
        "flow": _flow(account, params, customer["id"]),
        "livemode": False,
        "locale": params.text("locale", longest=10),
        "on_behalf_of": None,
        "return_url": params.url("return_url") or configuration["default_return_url"],
        "url": f"{account.base_url}/fake/portal/{secret}",
    }
    account.store.put("portal_link", secret, {"session": session["id"]})
    return events.create(account, session)


def page_content(account: Account, secret: str) -> tuple[Resource, Resource, list[Resource]]:
    """Returns the content of the page behind a link: session, configuration and subscriptions that have not ended."""
    link = account.store.find("portal_link", secret)
    if link is None:
        raise ResourceMissingError("portal session", secret[:200])
    session = account.get("billing_portal.session", link["session"])
    only = ((session["flow"] or {}).get("subscription_cancel") or {}).get("subscription")
    subscriptions = [
        subscription
        for subscription in account.store.newest_first("subscription")
        if subscription["customer"] == session["customer"]
        and subscription["status"] not in ENDED
        and only in {None, subscription["id"]}
    ]
    return session, account.get("billing_portal.configuration", session["configuration"]), subscriptions


def click(account: Account, params: Params, secret: str) -> Resource:
    """Applies a customer's click: `cancel` or `resume` of one of the subscriptions on the page."""
    params.required("action")
    action, named = params.choice("action", *ACTIONS), params.required("subscription")
    _, configuration, subscriptions = page_content(account, secret)
    subscription = next((one for one in subscriptions if one["id"] == named), None)
    if subscription is None:
        raise ResourceMissingError("subscription", named[:200], param="subscription")
    cancelling = configuration["features"]["subscription_cancel"]
    if action == "resume":
        back = {"cancel_at": None, "cancel_at_period_end": False, "canceled_at": None}
        details = {**subscription["cancellation_details"], "reason": None}
        return change(account, subscription, {**back, "cancellation_details": details})
    if not cancelling["enabled"]:
        raise InvalidRequestError("The portal's configuration does not let customers cancel.")
    if cancelling["mode"] == "immediately":
        prorate = cancelling["proration_behavior"] != "none"
        return periods.finish(account, subscription, "cancellation_requested", prorate=prorate)
    ending = {
        "cancel_at": period_of(subscription)[1],
        "cancel_at_period_end": True,
        "canceled_at": account.now(),
        "cancellation_details": {**subscription["cancellation_details"], "reason": "cancellation_requested"},
    }
    return change(account, subscription, ending)


def _flow(account: Account, params: Params, customer: str) -> Resource | None:
    given = params.nested("flow_data")
    if given is None:
        return None
    given.required("type")
    kind = given.choice("type", "subscription_cancel", "payment_method_update")
    flow: Resource = {"type": kind, "after_completion": {"type": "portal_homepage"}}
    if kind == "subscription_cancel":
        cancel = given.nested("subscription_cancel") or Params({}, given.name("subscription_cancel"))
        named = cancel.required("subscription")
        subscription = account.get("subscription", named, cancel.name("subscription"))
        if subscription["customer"] != customer or subscription["status"] in ENDED:
            raise InvalidRequestError(
                "The subscription belongs to another customer, or it has ended.", param=cancel.name("subscription")
            )
        flow["subscription_cancel"] = {"retention": None, "subscription": subscription["id"]}
    return flow


def _default(account: Account) -> Resource:
    for configuration in account.store.oldest_first("billing_portal.configuration"):
        if configuration["is_default"]:
            return configuration
    return account.put(_configuration(account) | {"is_default": True})


def _changes(params: Params, configuration: Resource) -> Resource:
    changes: Resource = {"metadata": params.metadata(configuration["metadata"])}
    if params.has("default_return_url"):
        changes["default_return_url"] = params.url("default_return_url")
    if params.has("name"):
        changes["name"] = params.text("name", longest=200)
    if (profile := params.nested("business_profile")) is not None:
        texts = {key: profile.text(key) for key in _TEXTS if profile.has(key)}
        changes["business_profile"] = {**configuration["business_profile"], **texts}
    if (features := params.nested("features")) is not None:
        merged = dict(configuration["features"])
        if (cancel := features.nested("subscription_cancel")) is not None:
            merged["subscription_cancel"] = _cancelling(cancel, merged["subscription_cancel"])
        for key in ("invoice_history", "payment_method_update"):
            if (feature := features.nested(key)) is not None:
                merged[key] = {**merged[key], "enabled": feature.flag("enabled") or False}
        changes["features"] = merged
    return changes


def _cancelling(params: Params, current: Resource) -> Resource:
    enabled = params.flag("enabled")
    return {
        **current,
        "enabled": current["enabled"] if enabled is None else enabled,
        "mode": params.choice("mode", *_MODES) or current["mode"],
        "proration_behavior": params.choice("proration_behavior", *BEHAVIOURS) or current["proration_behavior"],
    }


def _configuration(account: Account) -> Resource:
    now = account.now()
    return {
        "id": new_id("bpc"),
        "object": "billing_portal.configuration",
        "active": True,
        "application": None,
        "business_profile": dict.fromkeys(_TEXTS),
        "created": now,
        "default_return_url": None,
        "features": {
            "customer_update": {"allowed_updates": [], "enabled": False},
            "invoice_history": {"enabled": True},
            "payment_method_update": {"enabled": False, "payment_method_configuration": None},
            "subscription_cancel": {
                "cancellation_reason": {"enabled": False, "options": []},
                "enabled": True,
                "mode": "at_period_end",
                "proration_behavior": "none",
            },
            "subscription_pause": {"duration": {"interval_options": [], "type": "indefinite"}, "enabled": False},
            "subscription_update": {
                "billing_cycle_anchor": None,
                "default_allowed_updates": [],
                "enabled": False,
                "proration_behavior": "none",
                "schedule_at_period_end": {"conditions": []},
                "trial_update_behavior": "end_trial",
            },
        },
        "is_default": False,
        "livemode": False,
        "login_page": {"enabled": False, "url": None},
        "metadata": {},
        "name": None,
        "updated": now,
    }


ENDPOINTS = [
    ("POST", "/v1/billing_portal/configurations", create_configuration),
    ("GET", "/v1/billing_portal/configurations", list_configurations),
    ("GET", "/v1/billing_portal/configurations/{id}", retrieve_configuration),
    ("POST", "/v1/billing_portal/configurations/{id}", update_configuration),
    ("POST", "/v1/billing_portal/sessions", create_session),
]
