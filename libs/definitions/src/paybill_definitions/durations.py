"""Durations in files that people write, such as `14d`."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _span(text: object) -> int:
    """Returns the seconds in `90s`, `30m`, `12h` or `14d`."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("write a duration as 90s, 30m, 12h or 14d")
    return int(match[1]) * SECONDS[match[2]]


Span = Annotated[int, BeforeValidator(_span), Field(ge=0)]


def at_most(days: int) -> AfterValidator:
    """Returns the check of a longest duration, which the file states in days."""

    def checked(seconds: int) -> int:
        if seconds > days * SECONDS["d"]:
            raise ValueError(f"write at most {days}d")
        return seconds

    return AfterValidator(checked)
