"""Event about the billing providers of an installation."""

from paybill_contracts.event import Event
from paybill_contracts.values import Digest, Key


class ProvidersConfigured(
    Event, type="billing.providers_configured", version=1, aggregate="providers", key="providers"
):
    """Accounts can be opened at these providers from now on; `default` is used when a request names none."""

    providers: Key
    names: tuple[Key, ...]
    default: Key
    content_hash: Digest
