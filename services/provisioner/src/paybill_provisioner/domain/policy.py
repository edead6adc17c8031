"""The policy in force, and what it makes of a plan. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from paybill_contracts.environment_plans import Plan, Step, StepAction
from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.event import digest
from paybill_contracts.policy import CostLimit, DriftHandling, Handling, Policy, PolicyPublished, PolicyReason
from paybill_definitions.diagnostics import PartDiagnostic
from paybill_definitions.policy_rules import errors

from paybill_provisioner.domain.agent_logins import ADDRESSES
from paybill_provisioner.domain.blueprints import MAX_EARLIER, EarlierVersion
from paybill_provisioner.domain.estimates import DATA_KINDS, creates_empty

POLICY_ID = "main"
"""Id of the state with the policy in force."""

SAFE = Policy(
    name="safe",
    version=0,
    creates=Handling.UNATTENDED,
    updates=Handling.UNATTENDED,
    clean_up=Handling.UNATTENDED,
    deletes=Handling.OTHER_PERSON,
    replaces=Handling.OTHER_PERSON,
    moves_data=Handling.OTHER_PERSON,
    approval_valid_s=259_200,
)
"""Policy while none is published."""

_STRICTEST = (Handling.OTHER_PERSON, Handling.APPROVAL, Handling.UNATTENDED)


class InvalidPolicyError(DomainError):
    """The policy contradicts itself."""

    code = "invalid_policy"

    def __init__(self, *diagnostics: PartDiagnostic) -> None:
        super().__init__("; ".join(each.reason for each in diagnostics[:5]))
        self.diagnostics = diagnostics


class PolicyVersionError(ConflictError):
    """The version is not newer than the one in force."""

    code = "policy_version_conflict"


class PolicyNotPublishedError(NotFoundError):
    """No policy with this name is in force."""

    code = "policy_not_published"


@dataclass(frozen=True, slots=True)
class PublishedPolicy:
    """The policy in force, its hash, which requests for an approval name, and the versions before it."""

    id: str
    content: Policy
    content_hash: str
    earlier: tuple[EarlierVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Handling of a plan, and the rules that it follows from; none for a plan that runs unattended."""

    handling: Handling
    reasons: tuple[PolicyReason, ...]


def publish(current: PublishedPolicy | None, content: Policy) -> list[PolicyPublished]:
    """Publishes a version; the one that is in force already changes nothing.

    Raises InvalidPolicyError, PolicyVersionError.
    """
    content_hash = digest(content)
    if current is not None and current.content_hash == content_hash:
        return []
    if found := list(errors(content)):
        raise InvalidPolicyError(*found)
    if current is not None and current.content.name == content.name and content.version <= current.content.version:
        raise PolicyVersionError(
            f"{content.name}@{current.content.version} is in force; "
            f"write `version: {current.content.version + 1}` for another content"
        )
    return [PolicyPublished(policy=POLICY_ID, content=content, content_hash=content_hash)]


def publish_first(current: PublishedPolicy | None, content: Policy) -> list[PolicyPublished]:
    """Publishes the policy of an installation that has none. Raises InvalidPolicyError."""
    return [] if current is not None else publish(None, content)


def evolve(current: PublishedPolicy | None, event: PolicyPublished) -> PublishedPolicy:
    """Returns the policy in force after `event`."""
    earlier: tuple[EarlierVersion, ...] = ()
    if current is not None:
        last = EarlierVersion(current.content.name, current.content.version, current.content_hash)
        earlier = (*current.earlier, last)[-MAX_EARLIER:]
    return PublishedPolicy(event.policy, event.content, event.content_hash, earlier)


def verdict(policy: Policy, plan: Plan, *, was_ready: bool, is_moving: bool = False) -> Verdict:
    """Returns the strictest handling of all that the plan does.

    was_ready: a tenant may have data in it. is_moving: it follows a person's request, which another look confirms.
    """
    found = list(_found(policy, plan, was_ready=was_ready))
    if is_moving:
        found.append(
            (Handling.APPROVAL, PolicyReason(rule="move", text=f"a person requested the move to {plan.preset}"))
        )
    handling = min((each for each, _ in found), key=_STRICTEST.index, default=Handling.UNATTENDED)
    reasons = tuple(reason for each, reason in found if each is not Handling.UNATTENDED)
    return Verdict(handling, reasons)


def _found(policy: Policy, plan: Plan, *, was_ready: bool) -> Iterator[tuple[Handling, PolicyReason]]:
    """Yields each rule that applies, with its handling; none for a plan that only builds the login of agents."""
    if plan.steps and all(step.address in ADDRESSES and not step.repairs and step.after for step in plan.steps):
        return
    replaced = [step for step in plan.steps if is_replacement(step)]
    addresses = {step.address for step in replaced}
    gone = [step for step in plan.steps if step.action is StepAction.DELETE and step.address not in addresses]
    data = [step for step in replaced if step.resource.kind in DATA_KINDS]
    created = [step for step in plan.steps if step.action in {StepAction.CREATE, StepAction.ADOPT}]
    updated = [step for step in plan.steps if step.action is StepAction.UPDATE]
    rebuilt = [step for step in plan.steps if step.action is StepAction.REBUILD]
    rules: list[tuple[str, Handling, str, list[Step]]] = [
        ("creates", policy.creates, "creates", created),
        ("updates", policy.updates, "changes", updated),
        ("replaces", policy.replaces, "rebuilds the tables of", rebuilt),
    ]
    if was_ready:
        rules += [
            ("deletes", policy.deletes, "deletes", gone),
            ("replaces", policy.replaces, "replaces", replaced),
            ("moves_data", policy.moves_data, "transfers the data of", data),
        ]
    else:
        rules.append(("clean_up", policy.clean_up, "deletes what was never in use:", [*gone, *replaced]))
    for rule, handling, verb, steps in rules:
        if steps:
            names = ", ".join(sorted({step.address for step in steps}))
            yield handling, PolicyReason(rule=rule, text=f"the plan {verb} {names}"[:500])
    repairs = [step for step in plan.steps if step.repairs]
    if repairs:
        names = ", ".join(sorted({step.address for step in repairs}))
        # What is created again is empty: a person has to know where the data is.
        lost = any(map(creates_empty, repairs))
        unattended = policy.drift is DriftHandling.REPAIR and not lost
        handling = Handling.UNATTENDED if unattended else Handling.APPROVAL
        yield handling, PolicyReason(rule="drift", text=f"the plan repairs {names}"[:500])
    if policy.cost_limit is not None and (text := over(policy.cost_limit, plan)):
        yield policy.cost_limit.handling, PolicyReason(rule="cost_limit", text=text[:500])


def over(limit: CostLimit, plan: Plan) -> str:
    """Returns why the cost of the plan needs an approval by this limit, or an empty text."""
    before, after = plan.estimates.cost.before, plan.estimates.cost.after
    if not plan.steps:
        return ""
    if after is None:
        return f"its cost is unknown ({', '.join(plan.estimates.cost.missing)}), and the limit is {limit.monthly.text}"
    if after.currency != limit.monthly.currency:
        return f"its cost is in {after.currency}, and the limit in {limit.monthly.currency}"
    if after.minor <= limit.monthly.minor or (before is not None and after.minor <= before.minor):
        return ""
    return f"it would cost {after.text} a month, and the limit is {limit.monthly.text}"


def is_replacement(step: Step) -> bool:
    """Returns True when another resource takes the place of the tenant's old one, or of its part in a shared one."""
    return step.after is not None and step.reason is not None


def transfers_data(plan: Plan) -> bool:
    """Returns True when the tenant's data would have to be in another database, schema or bucket afterwards."""
    return any(is_replacement(step) and step.resource.kind in DATA_KINDS for step in plan.steps)
