"""Credentials of a tenant: passwords of its logins that are made when they are first requested."""

from collections.abc import Mapping

from paybill_contracts.credentials import CredentialsMade, CredentialsRequested
from paybill_contracts.errors import ConflictError
from paybill_contracts.kinds import Role
from paybill_contracts.provisioner import Access

from paybill_provisioner.domain.building import connections
from paybill_provisioner.domain.environment_events import EnvironmentEvent
from paybill_provisioner.domain.environment_state import Environment, Status
from paybill_provisioner.domain.environments import evolve, existing


class EnvironmentNotReadyError(ConflictError):
    """The environment is not built, or its tenant has left, so that there are no credentials to give."""

    code = "environment_not_ready"


class AccessNotOpenError(ConflictError):
    """The tenant is suspended: it gets no credentials."""

    code = "access_not_open"


class NoLoginError(ConflictError):
    """The environment has no login with a password."""

    code = "no_login"


def request(environment: Environment | None, id_: str) -> list[EnvironmentEvent]:
    """Requests the passwords that the tenant's logins lack; nothing when all are made or requested.

    Raises EnvironmentUnknownError, EnvironmentNotReadyError, AccessNotOpenError, NoLoginError.
    """
    environment = existing(environment, id_)
    if environment.status in {Status.RETAINING, Status.RETAINED}:
        raise EnvironmentNotReadyError(
            f"{environment.slug} has left and its data is retained: a retained tenant gets no credentials; they are "
            "available again, and the same, when it returns"
        )
    if environment.status not in {Status.READY, Status.CHANGING}:
        raise EnvironmentNotReadyError(
            f"the environment is {environment.status}; request the credentials when it is ready"
        )
    if environment.target_access is not Access.OPEN:
        raise AccessNotOpenError(
            f"{environment.slug} is suspended, access {environment.target_access}: a suspended tenant gets no "
            "credentials; reactivate it first"
        )
    if not _passwords(environment):
        raise NoLoginError(f"the environment of {environment.slug} has no login with a password")
    missing = missing_secrets(environment)
    if not missing or set(missing) <= set(environment.requested_credentials):
        return []
    return [
        CredentialsRequested(tenant_id=environment.tenant_id, environment_id=environment.id, secrets=tuple(missing))
    ]


def missing_secrets(environment: Environment) -> list[str]:
    """Returns the addresses of the passwords that are not made, in order."""
    outputs = environment.outputs
    return [address for address in _passwords(environment) if "secret" not in outputs[address]]


def made(environment: Environment, secrets: Mapping[str, str]) -> list[EnvironmentEvent]:
    """Records the passwords that were requested, with all connections. secrets: references by address."""
    requested = {address: secrets[address] for address in environment.requested_credentials if address in secrets}
    if not requested:
        return []
    fact = CredentialsMade(
        tenant_id=environment.tenant_id, environment_id=environment.id, secrets=requested, connections=()
    )
    return [fact.model_copy(update={"connections": tuple(connections(evolve(environment, fact)))})]


def _passwords(environment: Environment) -> list[str]:
    """Returns the addresses of the existing secrets that are passwords of the tenant's existing logins, in order."""
    built = {each.resource.address: each.resource.attributes for each in environment.built}
    roles = [each for each in built.values() if isinstance(each, Role) and each.agents is None]
    return sorted({role.secret for role in roles if role.secret is not None and role.secret in built})
