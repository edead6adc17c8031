"""Translates the errors of a provider into outcomes of an effect."""

from collections.abc import Iterator
from contextlib import contextmanager

from paybill_runtime.jobs.effects import Refused
from paybill_runtime.jobs.kinds import RetryAfter

from paybill_billing.providers.port import ProviderRefusedError, ProviderUnavailableError


@contextmanager
def provider_errors() -> Iterator[None]:
    """Raises RetryAfter when the provider is unavailable, and Refused when it refused."""
    try:
        yield
    except ProviderUnavailableError as error:
        raise RetryAfter(error.after_s, str(error)) from error
    except ProviderRefusedError as error:
        raise Refused(str(error)) from error
