"""Facts of a tenant's credentials: requested, and made. They have references to secrets, never a password."""

from paybill_contracts.environment_plans import Connection, EnvironmentFact
from paybill_contracts.kinds import Address
from paybill_contracts.values import SecretRef


class CredentialsRequested(
    EnvironmentFact, type="provisioner.credentials_requested", version=1, aggregate="environment", key="environment_id"
):
    """The passwords of the tenant's logins are needed for the first time. secrets: addresses of their resources."""

    secrets: tuple[Address, ...]


class CredentialsMade(
    EnvironmentFact, type="provisioner.credentials_made", version=1, aggregate="environment", key="environment_id"
):
    """The logins have passwords. secrets: references by the address of the secret; connections: all, with theirs."""

    secrets: dict[Address, SecretRef]
    connections: tuple[Connection, ...]
