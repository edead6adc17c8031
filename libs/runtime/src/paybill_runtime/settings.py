"""Settings that every service reads from the environment. Secrets come only as paths of files."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from paybill_runtime.errors import ConfigurationError


class ServiceSettings(BaseSettings):
    """Read from variables with the prefix `PAYBILL_`; a service adds its own fields in a subclass.

    database_url and nats_url carry no password: the password files hold it.
    """

    model_config = SettingsConfigDict(env_prefix="PAYBILL_", extra="ignore")

    database_url: str
    database_password_file: Path | None = None
    database_connections: Annotated[int, Field(ge=2, le=100)] = 8
    """Connections of the pool; the loops of the hot path use up to four more."""
    nats_url: str = "nats://127.0.0.1:4222"
    nats_user: str = ""
    nats_password_file: Path | None = None
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    api_keys_file: Path
    identity_dir: Path
    secrets_dir: Path
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)] = "INFO"
    lease_s: Annotated[float, Field(ge=1, le=300)] = 10.0
    """Time after its last heartbeat until a process loses its partitions."""
    job_retention_days: Annotated[float, Field(gt=0, le=3650)] = 7.0
    """Time after its end until a background job is deleted."""
    idempotency_retention_days: Annotated[float, Field(ge=1, le=3650)] = 30.0
    """Time until the response to an Idempotency-Key is deleted; a later request with the key is a new one."""
    quarantine_retention_days: Annotated[float, Field(ge=1, le=3650)] = 90.0
    """Time until a refused message is deleted; the fact about it stays."""
    publisher_messages_per_minute: Annotated[int, Field(ge=1)] = 600_000
    """Messages of a publisher that are accepted in a minute; further ones are counted, and refused."""
    publisher_bytes_per_minute: Annotated[int, Field(ge=1)] = 256 * 1024 * 1024
    """Bytes of a publisher that are accepted in a minute."""
    publisher_refused_per_minute: Annotated[int, Field(ge=0)] = 60
    """Refused messages of a publisher that are kept in a minute, each with a fact; further ones are counted."""
    invariant_tolerance_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Time for which the two sides of an invariant may differ before that is a violation."""
    invariant_interval_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """Interval at which the invariants of all tenants are checked."""
    signed_from_sequence: Annotated[int, Field(ge=0)] = 0
    """First sequence of the stream at which every fact has a signature; facts before it are of an earlier version."""
    outbox_limit: Annotated[int, Field(ge=100)] = 100_000
    """Unpublished facts from which on HTTP answers 503."""


def read_secret(path: Path | None) -> str:
    """Returns the secret in a file, without surrounding white space; empty when no file is set."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(
            f"the secret file {path.name} cannot be read ({error.strerror}); check its path and owner"
        ) from error
