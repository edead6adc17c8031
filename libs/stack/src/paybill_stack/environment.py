"""The command line and environment of each of our processes. Secrets are in files; only their paths are here."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paybill_stack.access import BusAccess, DatabaseAccess
from paybill_stack.layout import STRIPE_FAKE, Layout

# Nothing else of ours reaches them: a PGPASSWORD, a proxy or a PAYBILL_ variable would change what they do.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "PAYBILL_LOG_LEVEL")
_PASSED_ON_PREFIX = "OTEL_"
WEBHOOK_PATH = "/webhooks/stripe"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything is. ports: by part's name. catalogue, blueprints: files instead of the services' defaults."""

    bus: BusAccess
    databases: DatabaseAccess
    ports: Mapping[str, int]
    catalogue: Path | None = None
    blueprints: Path | None = None

    def url(self, name: str) -> str:
        """The HTTP address of one of our processes."""
        return f"http://127.0.0.1:{self.ports[name]}"


def inherited() -> dict[str, str]:
    """The part of our own environment that our processes get too."""
    return {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIX)
    }


def service_command(name: str, *arguments: str) -> list[str]:
    """How a service is run: by this interpreter, without what the current folder may hold."""
    return [sys.executable, "-P", "-m", f"paybill_{name}", *arguments]


def service_environment(name: str, layout: Layout, at: Addresses) -> dict[str, str]:
    """What decides for the service `name`."""
    values: dict[str, object] = {
        "DATABASE_URL": at.databases.url(name),
        "DATABASE_PASSWORD_FILE": at.databases.password_file(name),
        "NATS_URL": at.bus.url,
        "NATS_USER": name,
        "NATS_PASSWORD_FILE": at.bus.password_file(name),
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": at.ports[name],
        "API_KEYS_FILE": layout.api_keys,
        "IDENTITY_DIR": layout.identities,
        "SECRETS_DIR": layout.secrets,
        **(_OWN[name](layout, at) if name in _OWN else {}),
    }
    return inherited() | {f"PAYBILL_{key}": str(value) for key, value in values.items()}


def _billing(layout: Layout, at: Addresses) -> dict[str, object]:
    return {
        "STRIPE_API_KEY_FILE": layout.stripe_api_key,
        "STRIPE_API_BASE": at.url(STRIPE_FAKE),
        "STRIPE_WEBHOOK_SECRETS_FILE": layout.stripe_webhook_secrets,
        "PUBLISHERS_FILE": layout.publishers,
        **({"CATALOGUE_FILE": at.catalogue} if at.catalogue else {}),
    }


def _provisioner(layout: Layout, at: Addresses) -> dict[str, object]:
    url, password_file = at.databases.driver()
    return {
        "LOCAL_DATABASE_URL": url,
        "LOCAL_DATABASE_PASSWORD_FILE": password_file,
        "LOCAL_DIR": layout.local,
        **({"BLUEPRINTS_FILE": at.blueprints} if at.blueprints else {}),
    }


_OWN = {"billing": _billing, "provisioner": _provisioner}


def stripe_fake_command(layout: Layout, at: Addresses) -> list[str]:
    """The stand-in for Stripe, that sends its webhooks to billing."""
    return [
        *(sys.executable, "-P", "-m", "paybill_stripe_fake", "serve"),
        *("--port", str(at.ports[STRIPE_FAKE])),
        *("--state", str(layout.stripe_state)),
        *("--api-key-file", str(layout.stripe_api_key)),
        *("--webhook-url", at.url("billing") + WEBHOOK_PATH),
        *("--webhook-secret-file", str(layout.stripe_webhook_secrets)),
    ]
