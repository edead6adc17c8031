"""What the API refuses, in the shape in which Stripe says it."""

import math
from typing import Any


class ApiError(Exception):
    """A request was refused.

    status: the HTTP status of the answer.
    keep: what the request has changed so far stays, as after a declined card.
    headers: of the answer, besides the usual ones.
    """

    status = 400
    type = "invalid_request_error"
    keep = False

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.more = more
        self.headers: dict[str, str] = {}

    def body(self) -> dict[str, Any]:
        """The JSON that Stripe's SDKs turn into an exception."""
        error = {"type": self.type, "code": self.code, "message": self.message, "param": self.param, **self.more}
        return {"error": {key: value for key, value in error.items() if value is not None}}


class InvalidRequestError(ApiError):
    """The request is not one that Stripe would carry out."""


class ResourceMissingError(ApiError):
    """Nothing of this kind has this id; 404 when the URL names it, 400 when a parameter does."""

    def __init__(self, noun: str, identifier: str, *, param: str | None = None) -> None:
        super().__init__(f"No such {noun}: '{identifier}'", code="resource_missing", param=param or "id")
        self.status = 400 if param else 404


class UnknownUrlError(ApiError):
    """No endpoint of ours has this method and path."""

    status = 404

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Unrecognized request URL ({method}: {path}). This stand-in answers a part of the API only.")


class AuthenticationError(ApiError):
    """The API key is absent or not ours."""

    status = 401

    def __init__(self, *, given: bool) -> None:
        absent = "You did not provide an API key in the Authorization header (Authorization: Bearer YOUR_SECRET_KEY)."
        super().__init__("Invalid API Key provided." if given else absent)


class BodyTooLargeError(ApiError):
    """The body is larger than this process is willing to read."""

    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request's body is larger than {limit_bytes} bytes.")


class IdempotencyError(ApiError):
    """An idempotency key was used before, for something else."""

    type = "idempotency_error"


class KeyInUseError(IdempotencyError):
    """A request with this idempotency key is still under way."""

    status = 409

    def __init__(self, key: str) -> None:
        super().__init__(
            "There is currently another in-progress request using this Idempotent Key (that probably means you "
            f"submitted twice, and the other request is still going through): {key}. Please try again later.",
            code="idempotency_key_in_use",
        )


class RateLimitError(ApiError):
    """Too many calls within a second."""

    status = 429

    def __init__(self, reason: str, wait_s: float) -> None:
        super().__init__(
            "Request rate limit exceeded. Learn more about rate limits here https://docs.stripe.com/rate-limits.",
            code="rate_limit",
        )
        self.headers = {
            "Retry-After": str(math.ceil(max(wait_s, 0.001))),
            "Stripe-Rate-Limited-Reason": reason,
            "Stripe-Should-Retry": "true",
        }


class InjectedError(ApiError):
    """A call that a test wanted to fail."""

    type = "api_error"

    def __init__(self, status: int, retry_after_s: int | None) -> None:
        super().__init__("An error occurred on our end, as the stand-in was told to have.")
        self.status = status
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        if status == 429:  # noqa: PLR2004 - Too Many Requests
            self.type, self.code = "invalid_request_error", "rate_limit"


class CardDeclinedError(ApiError):
    """The customer's card was declined; the attempt itself is on record."""

    status = 402
    type = "card_error"

    def __init__(self, payment_intent: dict[str, Any] | None, *, keep: bool) -> None:
        super().__init__(
            "Your card was declined.",
            code="card_declined",
            decline_code="generic_decline",
            payment_intent=payment_intent,
        )
        self.keep = keep
