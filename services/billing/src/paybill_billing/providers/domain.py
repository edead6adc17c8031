"""Which billing providers there are, and which one a new account is opened at."""

from collections.abc import Iterable
from dataclasses import dataclass

from paybill_contracts.errors import DomainError
from paybill_contracts.event import digest
from paybill_contracts.providers import ProvidersConfigured

PROVIDERS = "providers"
"""There is one such choice; a handler must know what to load before it has read anything."""


class UnknownProviderError(DomainError):
    """Nobody can pay there."""

    code = "unknown_provider"


@dataclass(frozen=True, slots=True)
class Choice:
    """The names of the providers that are configured; `default` is for who does not choose."""

    id: str
    names: tuple[str, ...]
    default: str
    content_hash: str


def configure(choice: Choice | None, names: Iterable[str], default: str) -> list[ProvidersConfigured]:
    """Accounts can be opened at these from now on."""
    in_order = tuple(sorted(names))
    content_hash = digest([in_order, default])
    if choice is not None and choice.content_hash == content_hash:
        return []
    return [ProvidersConfigured(providers=PROVIDERS, names=in_order, default=default, content_hash=content_hash)]


def choose(choice: Choice, payment: str | None) -> str:
    """The provider for somebody who wants to pay like this. Raises UnknownProviderError."""
    if payment is None:
        return choice.default
    if payment not in choice.names:
        raise UnknownProviderError(f"there is no provider {payment}; choose one of {', '.join(choice.names)}")
    return payment


def evolve(_: Choice | None, event: ProvidersConfigured) -> Choice:
    """The choice is the last that was configured."""
    return Choice(id=event.providers, names=event.names, default=event.default, content_hash=event.content_hash)
