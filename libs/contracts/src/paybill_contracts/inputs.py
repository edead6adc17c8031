"""Types of what people enter in requests, commands and files: text and e-mail addresses.

They are stricter than the types of event fields, which stay as they are published.
"""

import re
from typing import Annotated
from unicodedata import normalize

from pydantic import AfterValidator, WithJsonSchema

MAX_TEXT = 500
MAX_EMAIL = 254
"""Characters of an address in SMTP: RFC 5321, 4.5.3.1.3."""

_HIDDEN = (
    r"\x00-\x1f\x7f-\x9f"  # control characters: C0, DEL and C1
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    r"\u200b-\u200d\u2060\ufeff"  # zero width
    r"\xad\u115f\u1160\u180e\u2028\u2029\u2061-\u2065\u206a-\u206f\u2800\u3164\uffa0\ufff9-\ufffb"  # not visible either
)
_HIDDEN_CHARACTER = re.compile(f"[{_HIDDEN}\\ud800-\\udfff\\U000e0000-\\U000e007f]")


def plain_text(value: str) -> str:
    """Returns the text in Unicode's form NFC without spaces around it.

    Raises ValueError if it is blank or too long, or if it contains a character that a person does not see or that
    changes the order of others. This includes the joiner of composed emoji.
    """
    if len(value) > MAX_TEXT or len(value := normalize("NFC", value)) > MAX_TEXT:
        raise ValueError(f"write at most {MAX_TEXT} characters")
    if found := _HIDDEN_CHARACTER.search(value):
        raise ValueError(
            f"remove character {found.start() + 1}, U+{ord(found[0]):04X}: "
            "a text has no control, bidirectional or invisible characters"
        )
    if not (value := value.strip()):
        raise ValueError("write a text that is not blank")
    return value


PlainText = Annotated[
    str,
    AfterValidator(plain_text),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_TEXT,
            "pattern": rf"^[^{_HIDDEN}]*[^\s{_HIDDEN}][^{_HIDDEN}]*$",
            "examples": ["some text"],
        }
    ),
]
"""One line for people, such as a name or a reason; see `plain_text`."""


def email_address(value: str) -> str:
    """Returns the address with its domain in lower case and its local part in NFC. Looks nothing up.

    Raises ValueError if it has another form than RFC 5322 and RFC 6531, or a domain that is reserved for no mail.
    """
    from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415 - only who checks addresses loads it

    if len(value) > MAX_EMAIL:
        raise ValueError(f"write at most {MAX_EMAIL} characters")
    try:
        return validate_email(value, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise ValueError(f"this is no e-mail address: {error}") from None


Email = Annotated[
    str,
    AfterValidator(email_address),
    WithJsonSchema({"type": "string", "format": "email", "maxLength": MAX_EMAIL, "examples": ["ops@acme.example"]}),
]
"""An e-mail address; see `email_address`."""
