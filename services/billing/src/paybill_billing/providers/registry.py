"""Registry of the configured providers: `manual` always, Stripe when its key is set, and third parties' packages."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from paybill_runtime.errors import ConfigurationError
from paybill_runtime.settings import read_secret

from paybill_billing.providers.manual.domain.contracts import MANUAL
from paybill_billing.providers.manual.effects import Manual, ManualContractStore
from paybill_billing.providers.port import ProviderConfig, ProviderConnection, ProviderFactory
from paybill_billing.providers.stripe.inbound import StripeInbound
from paybill_billing.providers.stripe.provider import NAME as STRIPE
from paybill_billing.providers.stripe.provider import Stripe
from paybill_billing.settings import Settings

GROUP = "paybill.billing_providers"
"""Group of the entry points that name the `connect` functions of third parties."""


def connect(settings: Settings, store: ManualContractStore) -> Mapping[str, ProviderConnection]:
    """Connects all configured providers, by name. Raises ConfigurationError."""
    connected = {MANUAL: ProviderConnection(Manual(store, settings.manual_offer_url))}
    if settings.stripe_api_key_file is not None:
        connected[STRIPE] = _stripe(settings)
    for name in settings.providers:
        if name in {MANUAL, STRIPE}:
            raise ConfigurationError(
                f"the setting `providers` names {name}, which is built in; remove it from the setting"
            )
        connected[name] = _factory(name)(_config(settings, name))
    if settings.default_provider not in connected:
        raise ConfigurationError(_no_default(settings.default_provider, connected))
    return connected


def _stripe(settings: Settings) -> ProviderConnection:
    stripe = Stripe(
        settings.stripe_api_key(),
        settings.stripe_api_base,
        settings.checkout_return_url,
        settings.stripe_requests_per_s,
    )
    secrets, every_s = settings.stripe_webhook_secrets(), settings.stripe_events_every_s
    # Without a secret, forged messages cannot be detected, so that there is no route for messages.
    has_messages = secrets or every_s is not None
    inbound = StripeInbound(secrets, settings.stripe_is_live(), settings.stripe_account) if has_messages else None
    return ProviderConnection(stripe, inbound, stripe.close, every_s)


def _factory(name: str) -> ProviderFactory:
    found = list(entry_points(group=GROUP, name=name))
    match found:
        case [one]:
            factory: ProviderFactory = one.load()
            return factory
        case []:
            available = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
            raise ConfigurationError(
                f"the setting `providers` names {name}, but no installed package provides it (available: {available}); "
                f"install the package with the entry point {name} in the group {GROUP}, or remove it from the setting"
            )
        case _:
            packages = ", ".join(sorted(one.dist.name for one in found if one.dist is not None))
            raise ConfigurationError(f"several packages provide {name} ({packages}); uninstall all but one")


def _config(settings: Settings, name: str) -> ProviderConfig:
    values = settings.providers[name]
    paths = {key.removesuffix("_file"): path for key, path in values.items() if key.endswith("_file")}
    return ProviderConfig(
        name=name,
        settings={key: value for key, value in values.items() if not key.endswith("_file")},
        secrets={key: read_secret(Path(path)) for key, path in paths.items()},
        return_url=settings.checkout_return_url,
    )


def _no_default(name: str, connected: Mapping[str, ProviderConnection]) -> str:
    fix = "set PAYBILL_STRIPE_API_KEY_FILE" if name == STRIPE else f"name {name} in PAYBILL_PROVIDERS"
    others = ", ".join(sorted(connected))
    return f"the default provider {name} is not configured: {fix}, or set PAYBILL_DEFAULT_PROVIDER to one of: {others}"
