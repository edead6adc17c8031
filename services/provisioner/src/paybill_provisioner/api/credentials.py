"""HTTP routes of a tenant's credentials: requested, and shown as references of secrets."""

from http import HTTPStatus
from typing import Annotated, Self

from fastapi import APIRouter
from paybill_contracts.environment_plans import Connection
from paybill_contracts.values import EnvironmentId, TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_provisioner.api.callers import Operator, Viewer
from paybill_provisioner.api.environment_ids import EnvironmentOrTenantId, id_from
from paybill_provisioner.domain import credentials
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.environments import existing
from paybill_provisioner.tables import ENVIRONMENTS, record


class CredentialsView(BaseModel):
    """Credentials of a tenant. A password is read from the secrets store by its reference, and never returned here."""

    environment_id: EnvironmentId
    tenant_id: TenantId
    slug: str
    requested: Annotated[bool, Field(description="Passwords are being made; ask again.")]
    complete: Annotated[bool, Field(description="Every login with a password has it.")]
    connections: Annotated[
        list[Connection], Field(description="The logins; `secret` is null until the password is made.")
    ]

    @classmethod
    def of(cls, environment: Environment) -> Self:
        """Builds the view of `environment`."""
        return cls(
            environment_id=environment.id,
            tenant_id=environment.tenant_id,
            slug=environment.slug,
            requested=bool(environment.requested_credentials),
            complete=bool(environment.connections) and not credentials.missing_secrets(environment),
            connections=list(environment.connections),
        )


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of credentials."""
    routes = Router(prefix="/v1", tags=["credentials"])

    @routes.get("/environments/{environment}/credentials")
    async def show(environment: EnvironmentOrTenantId, _: Viewer) -> CredentialsView:
        """Shows the references of a tenant's passwords; nothing is made."""
        state = await load_state(context, ENVIRONMENTS, id_from(environment))
        return CredentialsView.of(existing(state, environment))

    @routes.post("/environments/{environment}/credentials", status_code=HTTPStatus.ACCEPTED)
    async def request(environment: EnvironmentOrTenantId, principal: Operator) -> CredentialsView:
        """Requests a tenant's credentials: passwords that do not exist are made, others stay. Idempotent.

        Refused with `environment_not_ready`, `access_not_open` or `no_login`.
        """
        id_ = id_from(environment)

        def decide(unit: UnitOfWork, _: DecisionContext) -> CredentialsView:
            record(unit, id_, credentials.request(unit.get(ENVIRONMENTS, id_), environment))
            return CredentialsView.of(existing(unit.get(ENVIRONMENTS, id_), environment))

        return await context.decide(
            principal.origin,
            decide,
            writes=[ENVIRONMENTS.key(id_)],
            verb="request",
            target=environment,
            idempotency=principal.idempotency,
            response_type=CredentialsView,
        )

    return routes
