"""How Stripe is asked, no faster than it wants, and what its refusals mean."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import stripe
from typing_extensions import override

from paybill_billing.providers.port import ProviderAwayError, ProviderRefusedError

RETRY_S = 2.0
UNREACHABLE_S = 5.0
KEY_REFUSED_S = 30.0

SLACK = 1.2
"""How much slower than allowed we ask: what leaves at even times does not arrive at even times."""
TIMEOUT_S = 20.0
"""To connect, and again to answer."""


class MissingError(ProviderRefusedError):
    """Stripe has no object of this id."""


class PacedClient(stripe.HTTPXClient):
    """The library's own client, that lets a request go only when its turn has come."""

    def __init__(self, per_s: float) -> None:
        super().__init__(timeout=TIMEOUT_S)
        self._gap_s = SLACK / per_s
        self._turn = asyncio.Lock()
        self._next = 0.0

    @override
    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        async with self._turn:
            # From when the last one really went: after a pause of this process they would all go at once.
            await asyncio.sleep(self._next - time.monotonic())
            self._next = time.monotonic() + self._gap_s
        return await super().request_async(method, url, headers, post_data)


@contextmanager
def answers() -> Iterator[None]:
    """What Stripe's errors mean for us. Their words and bodies end here: they quote what was sent."""
    try:
        yield
    except stripe.RateLimitError as error:
        raise ProviderAwayError(_retry_after(error), f"Stripe is busy ({codes(error)})") from None
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise ProviderAwayError(KEY_REFUSED_S, f"Stripe does not take our API key ({codes(error)})") from None
    except stripe.APIConnectionError as error:
        why = type(error.__cause__ or error.__context__ or error).__name__
        raise ProviderAwayError(UNREACHABLE_S, f"Stripe cannot be reached ({why})") from None
    except stripe.StripeError as error:
        if error.http_status == 404 or error.code == "resource_missing":  # noqa: PLR2004  # RFC 9110, section 15.5.5
            raise MissingError(f"Stripe does not have it ({codes(error)})") from None
        again = error.code in {"resource_already_exists", "lock_timeout", "idempotency_key_in_use"}
        if again or error.http_status is None or error.http_status >= 500 or error.http_status == 409:  # noqa: PLR2004
            raise ProviderAwayError(RETRY_S, f"Stripe cannot do it now ({codes(error)})") from None
        raise ProviderRefusedError(f"Stripe refuses ({codes(error)})") from None


@contextmanager
def still_there() -> Iterator[None]:
    """What is refused because it was paid or cancelled since it was listed: look again."""
    try:
        yield
    except stripe.InvalidRequestError as error:
        raise ProviderAwayError(RETRY_S, f"it changed while it was being cancelled ({codes(error)})") from None


def codes(error: stripe.StripeError) -> str:
    """An error's codes, and nothing of its words."""
    param = getattr(error, "param", None)
    details = [f"HTTP {error.http_status}", error.code, f"parameter {param}" if param else None, error.request_id]
    return ", ".join(str(part) for part in details if part)


def _retry_after(error: stripe.StripeError) -> float:
    """Seconds from the header Retry-After, at most ten minutes; Stripe does not always send it."""
    header = {name.lower(): value for name, value in (error.headers or {}).items()}.get("retry-after", "")
    return min(float(header), 600.0) if header.isascii() and header.isdigit() else RETRY_S
