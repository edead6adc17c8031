"""Paths in the data directory of a stack."""

from dataclasses import dataclass
from pathlib import Path

from paybill_embedded.subscribers import FILE as SUBSCRIBERS_FILE

SERVICES = ("tenant", "billing", "provisioner", "agent-gateway")
STRIPE_FAKE = "stripe-fake"
IDENTITY_NAMES = (*SERVICES, "operator")
"""Each has a key pair, so that secrets can be sealed for it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below `root`; a path may not exist yet."""

    root: Path

    @property
    def credentials(self) -> Path:
        """Folder of passwords and keys, one file (0600) each."""
        return self.root / "credentials"

    @property
    def identities(self) -> Path:
        """Folder of the key pairs of IDENTITY_NAMES, and of subscribers that may open personal data."""
        return self.root / "identities"

    @property
    def steward(self) -> Path:
        """Folder of the root key, with which the steward certifies the signing keys of services."""
        return self.root / "steward"

    @property
    def signed_from(self) -> Path:
        """File with the first sequence of the log at which every fact has a signature; written once."""
        return self.root / "signed-from-sequence"

    @property
    def secrets(self) -> Path:
        """Folder of the secrets port."""
        return self.root / "secrets"

    @property
    def api_keys(self) -> Path:
        """File of the API keys that the services accept."""
        return self.root / "api-keys.json"

    @property
    def publishers(self) -> Path:
        """File of the internal services that may report usage."""
        return self.root / "publishers.json"

    @property
    def clients(self) -> Path:
        """Folder of the credentials files (0600) of publishers and subscribers."""
        return self.root / "clients"

    def client(self, name: str) -> Path:
        """Returns the path of the credentials file of a publisher or subscriber."""
        return self.clients / f"{name}.json"

    @property
    def subscribers(self) -> Path:
        """File of the subscribers and their rights; a change is applied to the running NATS."""
        return self.root / SUBSCRIBERS_FILE

    @property
    def plans(self) -> Path:
        """Catalogue of this stack; if the file exists, it replaces billing's default catalogue at the first start."""
        return self.root / "plans.yaml"

    @property
    def local(self) -> Path:
        """Folder of the provisioner's local driver: tenants' files and exports."""
        return self.root / "local"

    @property
    def stripe_state(self) -> Path:
        """State file of the Stripe fake."""
        return self.root / STRIPE_FAKE / "state.json"

    @property
    def stripe_api_key(self) -> Path:
        """File with the API key of billing at the Stripe fake."""
        return self.credentials / "stripe-api-key"

    @property
    def stripe_webhook_secrets(self) -> Path:
        """File with the signing secrets of webhooks, one per line."""
        return self.credentials / "stripe-webhook-secrets"

    @property
    def ports(self) -> Path:
        """File with the ports of the previous start."""
        return self.root / "ports.json"

    @property
    def stack_file(self) -> Path:
        """File with the addresses and process ids of a running stack; it is removed when the stack stops."""
        return self.root / "stack.json"

    def log(self, name: str) -> Path:
        """Returns the path of the log of one process."""
        return self.root / "logs" / f"{name}.log"
