"""HTTP client for Stripe that keeps its rate limit, and the translation of its errors."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import stripe
from opentelemetry.trace import get_tracer_provider
from paybill_runtime.telemetry import exporting
from paybill_runtime.telemetry.child_spans import ChildSpans
from typing_extensions import override

from paybill_billing.providers.port import ProviderRefusedError, ProviderUnavailableError

RETRY_S = 2.0
UNREACHABLE_S = 5.0
KEY_REFUSED_S = 30.0

SLACK = 1.2
"""Factor on the interval between requests: requests sent evenly do not arrive evenly."""
TIMEOUT_S = 20.0
"""Applies to the connection, and again to the response."""


class MissingError(ProviderRefusedError):
    """Raised when Stripe has no object with the id."""


class PacedClient(stripe.HTTPXClient):
    """The library's HTTP client with a minimum interval between requests."""

    def __init__(self, per_s: float) -> None:
        super().__init__(timeout=TIMEOUT_S)
        self._gap_s = SLACK / per_s
        self._slot = asyncio.Lock()
        self._next = 0.0
        if exporting():
            from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor  # noqa: PLC0415  # costs memory

            HTTPXClientInstrumentor.instrument_client(
                self._client_async, tracer_provider=ChildSpans(get_tracer_provider())
            )

    @override
    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        async with self._slot:
            # Counted from the last request: after a pause of this process the waiting ones must not leave at once.
            await asyncio.sleep(self._next - time.monotonic())
            self._next = time.monotonic() + self._gap_s
        return await super().request_async(method, url, headers, post_data)


@contextmanager
def stripe_errors() -> Iterator[None]:
    """Translates Stripe's errors to those of the port, without their messages and bodies, which quote the request."""
    try:
        yield
    except stripe.RateLimitError as error:
        raise ProviderUnavailableError(_retry_after(error), f"Stripe limits the rate ({codes(error)})") from None
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise ProviderUnavailableError(KEY_REFUSED_S, f"Stripe refuses our API key ({codes(error)})") from None
    except stripe.APIConnectionError as error:
        why = type(error.__cause__ or error.__context__ or error).__name__
        raise ProviderUnavailableError(UNREACHABLE_S, f"Stripe cannot be reached ({why})") from None
    except stripe.StripeError as error:
        if error.http_status == 404 or error.code == "resource_missing":  # noqa: PLR2004  # RFC 9110, section 15.5.5
            raise MissingError(f"Stripe has no such object ({codes(error)})") from None
        temporary = error.code in {"resource_already_exists", "lock_timeout", "idempotency_key_in_use"}
        if temporary or error.http_status is None or error.http_status >= 500 or error.http_status == 409:  # noqa: PLR2004
            raise ProviderUnavailableError(RETRY_S, f"Stripe is temporarily unavailable ({codes(error)})") from None
        raise ProviderRefusedError(f"Stripe refused ({codes(error)})") from None


@contextmanager
def retry_if_changed() -> Iterator[None]:
    """Requests a retry when an object was paid or cancelled after it was listed."""
    try:
        yield
    except stripe.InvalidRequestError as error:
        raise ProviderUnavailableError(
            RETRY_S, f"the object changed during its cancellation ({codes(error)})"
        ) from None


def codes(error: stripe.StripeError) -> str:
    """Returns the codes of an error without its message."""
    param = getattr(error, "param", None)
    details = [f"HTTP {error.http_status}", error.code, f"parameter {param}" if param else None, error.request_id]
    return ", ".join(str(part) for part in details if part)


def _retry_after(error: stripe.StripeError) -> float:
    """Returns the seconds of the header Retry-After, at most ten minutes; Stripe does not always send it."""
    header = {name.lower(): value for name, value in (error.headers or {}).items()}.get("retry-after", "")
    return min(float(header), 600.0) if header.isascii() and header.isdigit() else RETRY_S
