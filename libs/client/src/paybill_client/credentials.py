"""Credentials file of one identity: addresses of NATS, password, rights, and the prefix of the JetStream API.

A program names only this file. Paybill can change addresses, passwords and accounts by writing it anew.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from paybill_contracts.event import explain
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer

from paybill_client.errors import CredentialsError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


class Credentials(BaseModel):
    """The content of the file.

    name: the NATS user. consumer: of a subscriber, its durable consumer. contexts: of a subscriber, those that it may
    read in batches; empty without this right. opens: of a subscriber, the contexts whose personal data it may open
    with its private key (X25519, 32 bytes in base64).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = 1
    name: Name
    servers: Annotated[tuple[str, ...], Field(min_length=1)]
    password: SecretStr
    jetstream_prefix: str = "$JS.API"
    consumer: str | None = None
    contexts: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    private_key: Annotated[SecretStr, Field(min_length=44, max_length=44)] | None = None

    @classmethod
    def of(cls, name: str, url: str, password: str) -> Self:
        """Returns the credentials of a publisher that has no file."""
        return cls(name=name, servers=(url,), password=SecretStr(password))

    @property
    def inbox_prefix(self) -> str:
        """The subject below which this identity may receive answers."""
        return f"_INBOX_{self.name}"

    def text(self) -> str:
        """Returns the file's text, with the password."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"

    @field_serializer("password", "private_key", when_used="json")
    def _reveal(self, secret: SecretStr | None) -> str | None:
        return secret.get_secret_value() if secret is not None else None


def read_credentials(source: "Credentials | Path | str") -> Credentials:
    """Returns the credentials in a file, or the given ones. Raises CredentialsError."""
    if isinstance(source, Credentials):
        return source
    path = Path(source)
    try:
        return Credentials.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CredentialsError(
            f"the credentials file {path} cannot be read: {error.strerror}", "check its path and its owner"
        ) from error
    except ValidationError as error:
        # Without its cause: pydantic's message would contain the password.
        raise CredentialsError(
            f"{path} is not a credentials file: {explain(error)}", "create it with: paybill subscriber create"
        ) from None
