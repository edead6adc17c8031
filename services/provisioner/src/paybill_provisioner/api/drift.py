"""HTTP routes of drift: differences between records and what exists, checked on demand and accepted."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Protocol, Self

from fastapi import APIRouter, Path, Query
from paybill_contracts.drift import ResourceDriftKind
from paybill_contracts.inputs import PlainText
from paybill_contracts.values import EnvironmentId, Key, TenantId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field
from sqlalchemy import text

from paybill_provisioner.api.callers import Operator, Viewer
from paybill_provisioner.api.environment_ids import EnvironmentOrTenantId, id_from
from paybill_provisioner.domain import drift
from paybill_provisioner.domain.drift_state import Drift
from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.environments import existing
from paybill_provisioner.tables import CELL_KEYS, ENVIRONMENTS, INCIDENTS, PLANNING_READS, record_drift

DIFFERS = text("jsonb_array_length(state->'drift') > 0")
"""Condition of environments with differences."""


class Checks(Protocol):
    """Checks of the providers on demand."""

    async def check_tenant(self, tenant_id: str) -> None:
        """Compares the environment of one tenant. Raises ProviderAwayError."""

    async def check_page(self, after: str) -> str | None:
        """Compares a page of environments; returns where the next one begins. Raises ProviderAwayError."""

    async def problems(self) -> Mapping[str, str | None]:
        """Returns why each driver cannot work, by its cloud; None when it can."""


class DifferenceView(BaseModel):
    """A difference between a record and what exists."""

    id: str
    environment_id: EnvironmentId
    tenant_id: TenantId
    slug: str
    kind: ResourceDriftKind
    resource: Annotated[str, Field(description="Kind of the resource.")]
    name: Annotated[str, Field(description="Name at the provider.")]
    address: Annotated[str | None, Field(description="In the environment; null for an unknown resource.")]
    attribute: str | None
    expected: str | None
    observed: str | None
    since: datetime
    accepted: Annotated[str | None, Field(description="Reason of the person who accepted it.")]
    after_repair: Annotated[bool, Field(description="It was found again after a plan had repaired it.")]

    @classmethod
    def of(cls, environment: Environment, found: Drift) -> Self:
        """Builds the view of a difference of `environment`."""
        difference = found.difference
        return cls(
            id=difference.id,
            environment_id=environment.id,
            tenant_id=environment.tenant_id,
            slug=environment.slug,
            kind=difference.kind,
            resource=difference.resource_kind,
            name=difference.name,
            address=difference.address,
            attribute=difference.attribute,
            expected=difference.expected,
            observed=difference.observed,
            since=found.since,
            accepted=found.accepted,
            after_repair=found.unrepaired,
        )


class DriftList(BaseModel):
    """Differences of one environment, the most severe first."""

    differences: list[DifferenceView]

    @classmethod
    def of(cls, environment: Environment) -> Self:
        """Builds the list of `environment`."""
        return cls(differences=[DifferenceView.of(environment, each) for each in drift.by_severity(environment.drift)])


class DriftPage(DriftList):
    """Differences of environments, in the order of their ids."""

    next: Annotated[EnvironmentId | None, Field(description="Send it as `after` for the next page; null on the last.")]


class CheckedPage(BaseModel):
    """Result of the check of a page of environments."""

    next: Annotated[str | None, Field(description="Send it as `after` to check the next page; null after the last.")]


class AcceptBody(BaseModel):
    """Reason to accept a difference."""

    reason: Annotated[PlainText, Field(description="Kept in the log permanently: no personal data.")]


class DriverView(BaseModel):
    """A driver of this provisioner."""

    cloud: Key
    problem: Annotated[str | None, Field(description="Reason why it cannot work; null when it can.")]


class DriverList(BaseModel):
    """The drivers of this provisioner."""

    drivers: list[DriverView]


DifferenceOfPath = Annotated[str, Path(pattern=r"^dif_[0-9a-f]{16}$", examples=["dif_0123456789abcdef"])]
AfterNumber = Annotated[str, Query(pattern=r"^[0-9a-f]{0,32}$", description="`next` of the previous page.")]


def router(context: ServiceContext, checks: Checks) -> APIRouter:
    """Returns the routes of drift and drivers."""
    routes = Router(prefix="/v1", tags=["drift"])

    @routes.get("/drivers")
    async def drivers(_: Viewer) -> DriverList:
        """Checks whether each driver can work: its server answers, and its role has the rights that it needs."""
        return DriverList(
            drivers=[DriverView(cloud=key, problem=each) for key, each in (await checks.problems()).items()]
        )

    @routes.get("/drift")
    async def show_all(
        _: Viewer,
        after: Annotated[EnvironmentId | None, Query(description="Only ids after this one.")] = None,
        limit: Limit = 50,
    ) -> DriftPage:
        """Lists the differences that the last checks found, of all environments, in pages of environments."""
        page, next_ = await load_page(context, ENVIRONMENTS, after, limit, DIFFERS)  # type: ignore[arg-type]  # text
        found = [DifferenceView.of(each, difference) for each in page for difference in drift.by_severity(each.drift)]
        return DriftPage(differences=found, next=next_)

    @routes.post("/drift")
    async def check_page(_: Operator, after: AfterNumber = "") -> CheckedPage:
        """Compares a page of environments with what exists now, within the budget of calls. Idempotent."""
        return CheckedPage(next=await checks.check_page(after))

    @routes.get("/environments/{environment}/drift")
    async def show(environment: EnvironmentOrTenantId, _: Viewer) -> DriftList:
        """Lists the differences of one environment that the last check found."""
        state = await load_state(context, ENVIRONMENTS, id_from(environment))
        return DriftList.of(existing(state, environment))

    @routes.post("/environments/{environment}/drift")
    async def check(environment: EnvironmentOrTenantId, _: Operator) -> DriftList:
        """Compares one environment with what exists now, and lists its differences. Idempotent."""
        id_ = id_from(environment)
        state = existing(await load_state(context, ENVIRONMENTS, id_), environment)
        await checks.check_tenant(state.tenant_id)
        return DriftList.of(existing(await load_state(context, ENVIRONMENTS, id_), environment))

    @routes.post("/environments/{environment}/drift/{difference}/accept")
    async def accept_drift(
        environment: EnvironmentOrTenantId, difference: DifferenceOfPath, body: AcceptBody, principal: Operator
    ) -> DriftList:
        """Accepts a difference with its observed value: it is not repaired and no problem any more. Idempotent.

        Refused with `difference_unknown`.
        """
        id_ = id_from(environment)

        def decide(unit: UnitOfWork, at: DecisionContext) -> DriftList:
            state = unit.get(ENVIRONMENTS, id_)
            by = principal.origin.actor
            record_drift(unit, id_, drift.accept(state, environment, difference, body.reason, by), at.now)
            return DriftList.of(existing(unit.get(ENVIRONMENTS, id_), environment))

        incident = INCIDENTS.key_of(drift.INCIDENT, drift.subject_of(id_))
        return await context.decide(
            principal.origin,
            decide,
            writes=[ENVIRONMENTS.key(id_), *CELL_KEYS, incident],
            reads=PLANNING_READS,
            verb="accept_drift",
            target=difference,
            idempotency=principal.idempotency,
            response_type=DriftList,
        )

    return routes
