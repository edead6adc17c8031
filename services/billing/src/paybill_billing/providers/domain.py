"""Configured billing providers, and the choice of one for a new account."""

from collections.abc import Iterable
from dataclasses import dataclass

from paybill_contracts.errors import DomainError
from paybill_contracts.event import digest
from paybill_contracts.providers import ProvidersConfigured

PROVIDERS = "providers"
"""Id of the only aggregate: a handler names it before it reads anything."""


class UnknownProviderError(DomainError):
    """Raised for a provider that is not configured."""

    code = "unknown_provider"


@dataclass(frozen=True, slots=True)
class Choice:
    """Names of the configured providers. default: for sign-ups that name none."""

    id: str
    names: tuple[str, ...]
    default: str
    content_hash: str


def configure(choice: Choice | None, names: Iterable[str], default: str) -> list[ProvidersConfigured]:
    """Records the configured providers; nothing when they did not change."""
    in_order = tuple(sorted(names))
    content_hash = digest([in_order, default])
    if choice is not None and choice.content_hash == content_hash:
        return []
    return [ProvidersConfigured(providers=PROVIDERS, names=in_order, default=default, content_hash=content_hash)]


def choose(choice: Choice, payment: str | None) -> str:
    """Returns the provider for a sign-up. payment: its name, None for the default. Raises UnknownProviderError."""
    if payment is None:
        return choice.default
    if payment not in choice.names:
        raise UnknownProviderError(f"there is no provider {payment}; choose one of {', '.join(choice.names)}")
    return payment


def evolve(_: Choice | None, event: ProvidersConfigured) -> Choice:
    """Returns the choice after `event`."""
    return Choice(id=event.providers, names=event.names, default=event.default, content_hash=event.content_hash)
