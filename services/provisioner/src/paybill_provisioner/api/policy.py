"""HTTP routes that show and publish the policy."""

import asyncio
from typing import Annotated, Self

from fastapi import APIRouter, Path, Request
from paybill_contracts.event import digest
from paybill_contracts.policy import Policy
from paybill_contracts.values import Count, Digest, Key
from paybill_definitions.policy_file import PolicyFile, read_policy
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_provisioner.api.callers import Admin, Viewer
from paybill_provisioner.api.definition_files import YAML_BODY, DryRun, FileName, text_of
from paybill_provisioner.domain import policy
from paybill_provisioner.domain.policy import POLICY_ID, PolicyNotPublishedError, PublishedPolicy
from paybill_provisioner.tables import POLICY


class PolicySummary(BaseModel):
    """A version of the policy."""

    name: Key
    version: Count
    content_hash: Digest
    in_force: bool


class PolicyList(BaseModel):
    """The policy in force, then earlier versions, the newest first."""

    policies: list[PolicySummary]


class PolicyView(BaseModel):
    """The policy in force, and its hash, which requests for an approval name."""

    content_hash: Digest
    content: Policy


class PolicyDifference(BaseModel):
    """A rule that a publication changes."""

    rule: str
    before: str | None
    after: str | None


class PolicyPublication(BaseModel):
    """The effect of a publication."""

    name: Key
    version: Count
    content_hash: Digest
    changes: Annotated[bool, Field(description="False when this content is in force already.")]
    differences: list[PolicyDifference]

    @classmethod
    def of(cls, current: PublishedPolicy | None, content: Policy) -> Self:
        """Builds the view of the publication of `content`."""
        before = _rules(current.content) if current else {}
        after = _rules(content)
        content_hash = digest(content)
        return cls(
            name=content.name,
            version=content.version,
            content_hash=content_hash,
            changes=current is None or current.content_hash != content_hash,
            differences=[
                PolicyDifference(rule=rule, before=before.get(rule), after=after[rule])
                for rule in after
                if before.get(rule) != after[rule]
            ],
        )


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of the policy."""
    routes = Router(prefix="/v1", tags=["policies"])
    parse_lock = asyncio.Lock()
    key = POLICY.key(POLICY_ID)

    @routes.get("/policies")
    async def show_all(_: Viewer) -> PolicyList:
        """Lists the policy in force and the earlier versions."""
        state = await _published(context)
        current = PolicySummary(
            name=state.content.name, version=state.content.version, content_hash=state.content_hash, in_force=True
        )
        earlier = [
            PolicySummary(name=each.name, version=each.version, content_hash=each.content_hash, in_force=False)
            for each in reversed(state.earlier)
        ]
        return PolicyList(policies=[current, *earlier])

    @routes.get("/policies/{name}")
    async def show(name: Annotated[Key, Path(description="Name of the policy.")], _: Viewer) -> PolicyView:
        """Shows the policy in force."""
        state = await _published(context)
        if state.content.name != name:
            raise PolicyNotPublishedError(f"no policy {name} is in force, only {state.content.name}")
        return PolicyView(content_hash=state.content_hash, content=state.content)

    @routes.post("/policies", openapi_extra=YAML_BODY)
    async def publish(
        request: Request, principal: Admin, *, file: FileName = "policy.yaml", dry_run: DryRun = False
    ) -> PolicyPublication:
        """Publishes the policy.yaml in the body; plans are handled by it from now on. Idempotent.

        It needs the role admin, because it decides what needs an approval. Refused with `invalid_policy`, one line for
        each problem, and with `policy_version_conflict` when a version that is not newer has another content.
        """
        text = text_of(await request.body(), file, "invalid_policy")
        async with parse_lock:
            read_file: PolicyFile = await asyncio.to_thread(read_policy, text, file)

        def decide(unit: UnitOfWork, _: DecisionContext) -> PolicyPublication:
            state = unit.get(POLICY, POLICY_ID)
            events = policy.publish(state, read_file.content)
            if not dry_run:
                unit.record(POLICY, POLICY_ID, events)
            return PolicyPublication.of(state, read_file.content)

        return await context.decide(
            principal.origin,
            decide,
            writes=[] if dry_run else [key],
            reads=[key] if dry_run else [],
            verb="" if dry_run else "publish_policy",
            target=file,
            idempotency=None if dry_run else principal.idempotency,
            response_type=PolicyPublication,
        )

    return routes


async def _published(context: ServiceContext) -> PublishedPolicy:
    state = await load_state(context, POLICY, POLICY_ID)
    if state is None:
        raise PolicyNotPublishedError("no policy is published yet; see the service's log for why")
    return state


def _rules(content: Policy) -> dict[str, str]:
    """Returns the rules of a policy as texts."""
    limit = content.cost_limit
    excluded = {"name", "version", "cost_limit", "approval_valid_s", "change_within_s"}
    fields = content.model_dump(mode="json", exclude=excluded)
    fields["cost_limit"] = f"{limit.monthly.text}: {limit.handling}" if limit else "none"
    fields["approval_valid_hours"] = str(content.approval_valid_s // 3600)
    fields["change_within_hours"] = str(content.change_within_s // 3600)
    return {rule: str(value) for rule, value in fields.items()}
