"""Errors of the API, in the shape of Stripe's error objects."""

import math
from typing import Any


class ApiError(Exception):
    """Raised when a request is refused.

    status: the HTTP status of the response.
    keep: commits the changes made so far, as after a declined card.
    headers: additional response headers.
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
        """Returns the JSON that Stripe's SDKs turn into an exception."""
        error = {"type": self.type, "code": self.code, "message": self.message, "param": self.param, **self.more}
        return {"error": {key: value for key, value in error.items() if value is not None}}


class InvalidRequestError(ApiError):
    """Raised for a request that Stripe would not carry out."""


class ResourceMissingError(ApiError):
    """Raised when no resource of this kind has this id; 404 if the id is in the URL, 400 if in a parameter."""

    def __init__(self, noun: str, identifier: str, *, param: str | None = None) -> None:
        super().__init__(f"No such {noun}: '{identifier}'", code="resource_missing", param=param or "id")
        self.status = 400 if param else 404


class UnknownUrlError(ApiError):
    """Raised when no endpoint has this method and path."""

    status = 404

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Unrecognized request URL ({method}: {path}). The Stripe fake implements only a part.")


class AuthenticationError(ApiError):
    """Raised when the API key is absent or wrong."""

    status = 401

    def __init__(self, *, present: bool) -> None:
        absent = "You did not provide an API key in the Authorization header (Authorization: Bearer YOUR_SECRET_KEY)."
        super().__init__("Invalid API Key provided." if present else absent)


class BodyTooLargeError(ApiError):
    """Raised when the body is larger than the limit."""

    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request's body is larger than {limit_bytes} bytes.")


class IdempotencyError(ApiError):
    """Raised when an idempotency key was used before with other parameters."""

    type = "idempotency_error"


class KeyInUseError(IdempotencyError):
    """Raised while a request with the same idempotency key is in progress."""

    status = 409

    def __init__(self, key: str) -> None:
        super().__init__(
            "There is currently another in-progress request using this Idempotent Key (that probably means you "
            f"submitted twice, and the other request is still going through): {key}. Please try again later.",
            code="idempotency_key_in_use",
        )


class RateLimitError(ApiError):
    """Raised when there are too many calls within a second."""

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
    """Raised for a call that a test injected a failure into."""

    type = "api_error"

    def __init__(self, status: int, retry_after_s: int | None) -> None:
        super().__init__("An error occurred on our end, as injected into the Stripe fake.")
        self.status = status
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        if status == ApiError.status:
            self.type = "invalid_request_error"
        if status == 429:  # noqa: PLR2004 - Too Many Requests
            self.type, self.code = "invalid_request_error", "rate_limit"


class CardDeclinedError(ApiError):
    """Raised when the customer's card is declined; the attempt itself is recorded."""

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
