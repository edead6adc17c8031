"""Names of all settings: an unknown `PAYBILL_` variable is refused, since a misspelt one would silently do nothing."""

from collections.abc import Iterable
from difflib import get_close_matches

# fmt: off
SETTINGS = frozenset({
    # every service
    "DATABASE_CONNECTIONS", "DATABASE_PASSWORD_FILE", "DATABASE_URL", "HTTP_HOST", "HTTP_PORT", "API_KEYS_FILE",
    "IDEMPOTENCY_RETENTION_DAYS", "IDENTITY_DIR", "INVARIANT_INTERVAL_S", "INVARIANT_TOLERANCE_S",
    "JOB_RETENTION_DAYS", "LEASE_S", "LOG_LEVEL",
    "NATS_PASSWORD_FILE", "NATS_URL", "NATS_USER", "OUTBOX_LIMIT", "PUBLISHER_BYTES_PER_MINUTE",
    "PUBLISHER_MESSAGES_PER_MINUTE", "PUBLISHER_REFUSED_PER_MINUTE", "QUARANTINE_RETENTION_DAYS", "SECRETS_DIR",
    "SIGNED_FROM_SEQUENCE",
    # tenant
    "CONTACT_DAYS", "OFFBOARDING_DELAY_S", "SIGNUP_VALID_S",
    # billing
    "CATALOGUE_FILE", "CHANGES_WHILE_OVERDUE", "CHECKOUT_RETURN_URL", "DEFAULT_PROVIDER", "LEFTOVERS",
    "LICENCE_VALID_S", "MANUAL_OFFER_URL", "PROVIDERS", "PUBLISHERS_FILE", "RECONCILE_EVERY_S", "SALES_WITH_DEBT",
    "STATEMENT_DELAY_S", "STRIPE_ACCOUNT", "STRIPE_API_BASE", "STRIPE_API_KEY_FILE", "STRIPE_EVENTS_EVERY_S",
    "STRIPE_LIVEMODE", "STRIPE_REQUESTS_PER_S", "STRIPE_WEBHOOK_SECRETS_FILE", "SWEEP_EVERY_S",
    "WEBHOOK_RETENTION_DAYS",
    # provisioner
    "BLUEPRINTS_FILE", "DRIFT_CALLS_PER_S", "DRIFT_EVERY_S", "ISOLATION_EVERY_S", "ISOLATION_TRUSTED_S",
    "LOCAL_DATABASE_PASSWORD_FILE", "LOCAL_DATABASE_URL", "LOCAL_DIR", "TENANT_IDLE_TRANSACTION_S",
    "TENANT_STATEMENT_S",
    # agent gateway
    "AGENT_ORIGINS",
    # command line and creation of streams
    "AGENT_GATEWAY_URL", "API_KEY", "API_KEY_FILE", "BILLING_URL", "CONTEXT", "DATA_DIR", "DEBUG",
    "NATS_CREDENTIALS_DIR", "NATS_REPLICAS", "PROVISIONER_URL", "TENANT_URL",
})
# fmt: on
"""Without the prefix. A test compares them with the fields of all services' settings and the variables of commands."""

PREFIX = "PAYBILL_"
TEST_PREFIX = "PAYBILL_TEST_"
"""Variables that only tests read."""


def unknown_settings(variables: Iterable[str]) -> str | None:
    """Returns an explanation of the unknown `PAYBILL_` variables with the nearest names, or None without any."""
    unknown = sorted(
        name
        for name in variables
        if (upper := name.upper()).startswith(PREFIX)
        and not upper.startswith(TEST_PREFIX)
        and upper.removeprefix(PREFIX) not in SETTINGS
    )
    return "; ".join(_explained(name) for name in unknown) or None


def _explained(name: str) -> str:
    near = get_close_matches(name.upper().removeprefix(PREFIX), SETTINGS, n=1)
    return f"{name} is no setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else "; remove the variable")
