"""Views of plans and their approvals."""

from datetime import datetime
from typing import Annotated, Self

from paybill_contracts.approval import Approval
from paybill_contracts.environment_plans import Plan, Resource, Step, StepAction
from paybill_contracts.money import Money
from paybill_contracts.plan_estimates import LimitChange, MonthlyCost, Risk
from paybill_contracts.policy import Handling, PolicyReason
from paybill_contracts.values import Digest, EnvironmentId, TenantId
from pydantic import BaseModel, Field

from paybill_provisioner.domain.environment_state import Environment
from paybill_provisioner.domain.plan_approvals import ApprovalStatus, PlanApproval


class AttributeChange(BaseModel):
    """An attribute of a resource that a step changes."""

    attribute: str
    before: str | None
    after: str | None


class PlannedStepView(BaseModel):
    """A step of a plan, with what it changes."""

    action: StepAction
    address: str
    isolation_before: str | None
    isolation_after: str | None
    reason: str | None
    changes: list[AttributeChange]

    @classmethod
    def of(cls, step: Step) -> Self:
        """Builds the view of `step`."""
        return cls(
            action=step.action,
            address=step.address,
            isolation_before=step.before.isolation if step.before else None,
            isolation_after=step.after.isolation if step.after else None,
            reason=step.reason,
            changes=_changes(step.before, step.after),
        )


class ApprovalView(BaseModel):
    """An approval of a plan."""

    id: str
    environment_id: EnvironmentId
    tenant_id: TenantId
    slug: str
    plan_hash: Digest
    status: ApprovalStatus
    expired: Annotated[bool, Field(description="It can be neither approved nor used any more, because of its time.")]
    requester: str
    other_person: Annotated[bool, Field(description="Another person than the requester has to approve.")]
    reasons: list[PolicyReason]
    requested_at: datetime
    expires_at: datetime
    approval: Approval | None
    decided_by: Annotated[str | None, Field(description="The person who approved or rejected it.")]
    ended: Annotated[str | None, Field(description="Reason of a rejection, or of its end.")]

    @classmethod
    def of(cls, environment: Environment, approval: PlanApproval, now: datetime) -> Self:
        """Builds the view of an approval of the environment's plan."""
        return cls(
            id=approval.id,
            environment_id=environment.id,
            tenant_id=environment.tenant_id,
            slug=environment.slug,
            plan_hash=approval.plan_hash,
            status=approval.status,
            expired=approval.has_expired(now),
            requester=approval.requester,
            other_person=approval.other_person,
            reasons=list(approval.reasons),
            requested_at=approval.requested_at,
            expires_at=approval.expires_at,
            approval=approval.granted,
            decided_by=approval.approver,
            ended=approval.ended,
        )


class ProposedPlanView(BaseModel):
    """A plan of an environment, with everything that is known before it is applied."""

    hash: Digest
    environment_id: EnvironmentId
    tenant_id: TenantId
    slug: str
    tier: str
    preset: str
    cloud: str
    region: str
    epoch: int
    based_on: Annotated[int, Field(description="The environment's base revision that the plan was computed from.")]
    observed_hash: Digest | None
    blueprint: Annotated[str, Field(description="Name and version.", examples=["standard@4"])]
    blueprint_hash: Digest
    entitlements_hash: Digest
    price_book: Annotated[str | None, Field(description="Name and version; null when none is published.")]
    price_book_hash: Digest | None
    steps: list[PlannedStepView]
    cost: MonthlyCost
    expected_ms: Annotated[int | None, Field(description="Null while no plan with the same steps has run.")]
    risks: list[Risk]
    limits: list[LimitChange]
    proration: Annotated[
        Money | None,
        Field(description="Of the change of the subscription that it follows, as quoted; null without one."),
    ]
    handling: Handling
    reasons: list[PolicyReason]
    transfers_data: Annotated[bool, Field(description="It cannot be applied by this version.")]
    approval: ApprovalView | None

    @classmethod
    def of(
        cls,
        environment: Environment,
        plan: Plan,
        plan_hash: str,
        now: datetime,
        *,
        handling: Handling,
        reasons: tuple[PolicyReason, ...],
        transfers_data: bool,
    ) -> Self:
        """Builds the view of `plan`."""
        book, approval = plan.price_book, environment.approval
        shown = approval if approval is not None and approval.plan_hash == plan_hash else None
        return cls(
            hash=plan_hash,
            environment_id=environment.id,
            tenant_id=environment.tenant_id,
            slug=environment.slug,
            tier=plan.tier,
            preset=plan.preset,
            cloud=plan.cloud,
            region=plan.region,
            epoch=plan.epoch,
            based_on=plan.based_on,
            observed_hash=plan.observed_hash,
            blueprint=f"{plan.blueprint.name}@{plan.blueprint.version}",
            blueprint_hash=plan.blueprint.content_hash,
            entitlements_hash=plan.entitlements_hash,
            price_book=f"{book.name}@{book.version}" if book else None,
            price_book_hash=book.content_hash if book else None,
            steps=[PlannedStepView.of(each) for each in plan.steps],
            cost=plan.estimates.cost,
            expected_ms=plan.estimates.expected_ms,
            risks=list(plan.estimates.risks),
            limits=list(plan.estimates.limits),
            proration=plan.estimates.proration,
            handling=handling,
            reasons=list(reasons),
            transfers_data=transfers_data,
            approval=ApprovalView.of(environment, shown, now) if shown else None,
        )


class EnvironmentPlans(BaseModel):
    """The plan that would be applied now, and the approvals of the environment, the newest first."""

    plan: ProposedPlanView | None
    approvals: list[ApprovalView]


def _changes(before: Resource | None, after: Resource | None) -> list[AttributeChange]:
    old, new = _texts(before), _texts(after)
    return [
        AttributeChange(attribute=name, before=old.get(name), after=new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _texts(resource: Resource | None) -> dict[str, str]:
    if resource is None:
        return {}
    attributes = resource.attributes.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
    return {name: _text(value) for name, value in attributes.items()}


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(each["name"]) if isinstance(each, dict) else str(each) for each in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
