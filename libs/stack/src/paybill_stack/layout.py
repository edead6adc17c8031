"""What lies where in the folder of `paybill up`."""

from dataclasses import dataclass
from pathlib import Path

SERVICES = ("tenant", "billing", "provisioner")
STRIPE_FAKE = "stripe-fake"
READERS = (*SERVICES, "operator")
"""Who has an identity, and so can be given secrets."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below `root`; nothing here says that they exist."""

    root: Path

    @property
    def credentials(self) -> Path:
        """Passwords and keys, a file (0600) for each."""
        return self.root / "credentials"

    @property
    def identities(self) -> Path:
        """Key pairs of all READERS."""
        return self.root / "identities"

    @property
    def secrets(self) -> Path:
        """The secrets port's files."""
        return self.root / "secrets"

    @property
    def api_keys(self) -> Path:
        """Who may use the services' HTTP."""
        return self.root / "api-keys.json"

    @property
    def publishers(self) -> Path:
        """Which internal services may report usage."""
        return self.root / "publishers.json"

    @property
    def plans(self) -> Path:
        """A catalogue of this stack's own, sold at first instead of billing's default when it is there."""
        return self.root / "plans.yaml"

    @property
    def local(self) -> Path:
        """The folder of the provisioner's local driver: tenants' files and exports."""
        return self.root / "local"

    @property
    def stripe_state(self) -> Path:
        """What the stand-in for Stripe remembers."""
        return self.root / STRIPE_FAKE / "state.json"

    @property
    def stripe_api_key(self) -> Path:
        """The key that billing uses at the stand-in."""
        return self.credentials / "stripe-api-key"

    @property
    def stripe_webhook_secrets(self) -> Path:
        """What signs webhooks, one secret a line."""
        return self.credentials / "stripe-webhook-secrets"

    @property
    def ports(self) -> Path:
        """The ports of last time."""
        return self.root / "ports.json"

    @property
    def stack_file(self) -> Path:
        """What runs where, while it runs."""
        return self.root / "stack.json"

    def log(self, name: str) -> Path:
        """The output of one process."""
        return self.root / "logs" / f"{name}.log"
