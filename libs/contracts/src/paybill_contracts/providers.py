"""Which billing providers an installation has."""

from paybill_contracts.event import Event
from paybill_contracts.values import Digest, Key


class ProvidersConfigured(
    Event, type="billing.providers_configured", version=1, aggregate="providers", key="providers"
):
    """From now on accounts can be opened at these; `default` is for who does not say where it wants to pay."""

    providers: Key
    names: tuple[Key, ...]
    default: Key
    content_hash: Digest
