"""Reads the parameters of a request from its query or its body, up to a size limit."""

import json

from starlette.requests import Request

from paybill_stripe_fake.errors import BodyTooLargeError, InvalidRequestError
from paybill_stripe_fake.forms import Value, from_json, parse_form

MAX_BODY_BYTES = 1_048_576
_FORM = "application/x-www-form-urlencoded"


async def parameters(request: Request, *, json_too: bool) -> dict[str, Value]:
    """Returns the parameters of the query, or of the body, which is read no further than its limit."""
    if request.method in {"GET", "HEAD"}:
        return parse_form(request.url.query)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLargeError(MAX_BODY_BYTES)
    if not body:
        return parse_form(request.url.query)
    media_type = request.headers.get("content-type", _FORM).split(";")[0].strip().lower()
    if media_type == _FORM:
        return parse_form(bytes(body))
    if json_too and media_type == "application/json":
        return _from_json(bytes(body))
    raise InvalidRequestError(f"The body must be {_FORM}.")


def _from_json(body: bytes) -> dict[str, Value]:
    try:
        decoded = json.loads(body)
        tree = from_json(decoded)
        json.dumps(tree, ensure_ascii=False).encode()  # a lone surrogate could not be encoded in any response
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("The body is not JSON in UTF-8.") from error
    if isinstance(tree, str) or not isinstance(decoded, dict):
        raise InvalidRequestError("The body is not a JSON object.")
    return tree
