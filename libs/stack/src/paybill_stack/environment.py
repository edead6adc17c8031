"""Command lines and environments of our processes; secrets stay in files, and only their paths are passed."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paybill_stack.access import BusAccess, DatabaseAccess
from paybill_stack.errors import FailureKind, StackError
from paybill_stack.layout import STRIPE_FAKE, Layout

POLICIES = frozenset(
    f"PAYBILL_{name}"
    for name in (
        "AGENT_ORIGINS",
        *("CHANGES_WHILE_OVERDUE", "CHECKOUT_RETURN_URL", "CONTACT_DAYS", "DATABASE_CONNECTIONS", "DRIFT_CALLS_PER_S"),
        *(
            "DRIFT_EVERY_S",
            "IDEMPOTENCY_RETENTION_DAYS",
            "INVARIANT_INTERVAL_S",
            "INVARIANT_TOLERANCE_S",
            "ISOLATION_EVERY_S",
        ),
        *("ISOLATION_TRUSTED_S", "JOB_RETENTION_DAYS", "LEASE_S", "LEFTOVERS", "LICENCE_VALID_S", "MANUAL_OFFER_URL"),
        *("OFFBOARDING_DELAY_S", "OUTBOX_LIMIT", "PUBLISHER_BYTES_PER_MINUTE"),
        *(
            "PUBLISHER_MESSAGES_PER_MINUTE",
            "PUBLISHER_REFUSED_PER_MINUTE",
            "QUARANTINE_RETENTION_DAYS",
            "RECONCILE_EVERY_S",
        ),
        *("RECONCILE_EVERY_S", "SALES_WITH_DEBT", "SIGNUP_VALID_S"),
        *("STATEMENT_DELAY_S", "STRIPE_REQUESTS_PER_S", "SWEEP_EVERY_S", "TENANT_IDLE_TRANSACTION_S"),
        *("TENANT_STATEMENT_S", "WEBHOOK_RETENTION_DAYS"),
    )
)
"""Settings of services that a person may set for the whole stack: rules and times, no addresses and no secrets."""
# Nothing else is passed on: a PGPASSWORD, a proxy or a PAYBILL_ address would change what the processes use.
_INHERITED = POLICIES | {
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "PAYBILL_LOG_LEVEL"),
}
_INHERITED_PREFIX = "OTEL_"
WEBHOOK_PATH = "/webhooks/stripe"
_STRIPE_EVENTS_EVERY_S = 5
_TEST_KEYS = ("sk_test_", "rk_test_")


@dataclass(frozen=True, slots=True)
class StripeAccount:
    """A real Stripe test account instead of the fake. api_base: empty for Stripe itself.

    No webhook of it reaches this machine, so billing fetches its events.
    """

    api_key_file: Path
    api_base: str = ""

    def validate(self) -> None:
        """Raises StackError for a key that cannot be read or is not of test mode."""
        try:
            key = self.api_key_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StackError(
                "secret_unreadable",
                f"the file of Stripe's key {self.api_key_file} cannot be read",
                why=str(error),
                next="write a key of test mode into it (https://docs.stripe.com/keys)",
                kind=FailureKind.USAGE,
            ) from error
        if not key.startswith(_TEST_KEYS):
            raise StackError(
                "not_a_test_key",
                f"{self.api_key_file} contains no secret key of Stripe's test mode",
                why=f"such a key starts with {' or '.join(_TEST_KEYS)}; this stack never uses real money",
                next="create one at https://dashboard.stripe.com/test/apikeys",
                kind=FailureKind.USAGE,
            )


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of all parts. ports: by part. catalogue, blueprints: files that replace the services' defaults.

    offboarding_delay_s: of the tenant service; its own default when None. stripe: None for the fake. providers: files
    with the settings of third-party billing providers, by name.
    """

    bus: BusAccess
    databases: DatabaseAccess
    ports: Mapping[str, int]
    catalogue: Path | None = None
    blueprints: Path | None = None
    offboarding_delay_s: int | None = None
    stripe: StripeAccount | None = None
    providers: Mapping[str, Path] = field(default_factory=dict)

    def url(self, name: str) -> str:
        """Returns the HTTP address of one of our processes."""
        return f"http://127.0.0.1:{self.ports[name]}"


def inherited_environment() -> dict[str, str]:
    """Returns the variables of this process that child processes get too."""
    return {
        name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIX)
    }


def service_command(name: str, *arguments: str) -> list[str]:
    """Returns the command that runs a service with this interpreter; -P ignores modules in the current folder."""
    return [sys.executable, "-P", "-m", f"paybill_{name.replace('-', '_')}", *arguments]


def replay_command(names: Sequence[str], *, rebuild: bool = False) -> list[str]:
    """Returns the command that replays several services in one process; its input is `replay_input`."""
    return [sys.executable, "-P", "-m", "paybill_runtime.replay", *names, *(["--rebuild"] if rebuild else [])]


def replay_input(names: Iterable[str], layout: Layout, addresses: Addresses) -> str:
    """Returns the access of these services to their databases and the log, as JSON."""
    databases, bus = addresses.databases, addresses.bus
    return json.dumps(
        {
            name: {
                "database_url": databases.url(name),
                "database_password_file": str(databases.password_file(name)),
                "nats_url": bus.url,
                "nats_user": name,
                "nats_password_file": str(bus.password_file(name)),
                "identity_dir": str(layout.identities),
                "signed_from_sequence": _signed_from(layout),
            }
            for name in names
        }
    )


def _signed_from(layout: Layout) -> int:
    return int(layout.signed_from.read_text(encoding="ascii")) if layout.signed_from.exists() else 0


def service_environment(name: str, layout: Layout, addresses: Addresses) -> dict[str, str]:
    """Returns the environment of the service `name`."""
    settings: dict[str, object] = {
        "DATABASE_URL": addresses.databases.url(name),
        "DATABASE_PASSWORD_FILE": addresses.databases.password_file(name),
        "NATS_URL": addresses.bus.url,
        "NATS_USER": name,
        "NATS_PASSWORD_FILE": addresses.bus.password_file(name),
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": addresses.ports[name],
        "API_KEYS_FILE": layout.api_keys,
        "IDENTITY_DIR": layout.identities,
        "SECRETS_DIR": layout.secrets,
        "SIGNED_FROM_SEQUENCE": _signed_from(layout),
        **(_SERVICE_SETTINGS[name](layout, addresses) if name in _SERVICE_SETTINGS else {}),
    }
    return inherited_environment() | {f"PAYBILL_{key}": str(value) for key, value in settings.items()}


def _tenant(_: Layout, addresses: Addresses) -> dict[str, object]:
    delay_s = addresses.offboarding_delay_s
    return {} if delay_s is None else {"OFFBOARDING_DELAY_S": delay_s}


def _billing(layout: Layout, addresses: Addresses) -> dict[str, object]:
    return {
        **(_stripe_fake(layout, addresses) if addresses.stripe is None else _stripe(addresses.stripe)),
        "PUBLISHERS_FILE": layout.publishers,
        **({"CATALOGUE_FILE": addresses.catalogue} if addresses.catalogue else {}),
        **({"PROVIDERS": _providers(addresses.providers)} if addresses.providers else {}),
    }


def _stripe_fake(layout: Layout, addresses: Addresses) -> dict[str, object]:
    return {
        "STRIPE_API_KEY_FILE": layout.stripe_api_key,
        "STRIPE_API_BASE": addresses.url(STRIPE_FAKE),
        "STRIPE_WEBHOOK_SECRETS_FILE": layout.stripe_webhook_secrets,
    }


def _stripe(account: StripeAccount) -> dict[str, object]:
    return {
        "STRIPE_API_KEY_FILE": account.api_key_file,
        "STRIPE_API_BASE": account.api_base,
        "STRIPE_EVENTS_EVERY_S": _STRIPE_EVENTS_EVERY_S,
    }


def _providers(files: Mapping[str, Path]) -> str:
    return json.dumps({name: json.loads(path.read_bytes()) for name, path in files.items()})


def _provisioner(layout: Layout, addresses: Addresses) -> dict[str, object]:
    url, password_file = addresses.databases.driver()
    return {
        "LOCAL_DATABASE_URL": url,
        "LOCAL_DATABASE_PASSWORD_FILE": password_file,
        "LOCAL_DIR": layout.local,
        **({"BLUEPRINTS_FILE": addresses.blueprints} if addresses.blueprints else {}),
    }


_SERVICE_SETTINGS = {"tenant": _tenant, "billing": _billing, "provisioner": _provisioner}


def stripe_fake_command(layout: Layout, addresses: Addresses) -> list[str]:
    """Returns the command of the Stripe fake, which sends its webhooks to billing."""
    return [
        *(sys.executable, "-P", "-m", "paybill_stripe_fake", "serve"),
        *("--port", str(addresses.ports[STRIPE_FAKE])),
        *("--state", str(layout.stripe_state)),
        *("--api-key-file", str(layout.stripe_api_key)),
        *("--webhook-url", addresses.url("billing") + WEBHOOK_PATH),
        *("--webhook-secret-file", str(layout.stripe_webhook_secrets)),
    ]
