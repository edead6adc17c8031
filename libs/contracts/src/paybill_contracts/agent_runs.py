"""Facts of runs: started, their actions and approvals, ended. Each names the hash of the bundle that it obeyed."""

from enum import StrEnum
from typing import Annotated, TypeAlias

from pydantic import Field, StringConstraints

from paybill_contracts.agent_bundles import Amounts, Scalar, Verb
from paybill_contracts.agents import AgentId
from paybill_contracts.api_keys import CallerSubject, Subject
from paybill_contracts.approval import Approval
from paybill_contracts.event import Event, Value
from paybill_contracts.personal import Personal
from paybill_contracts.plan_approvals import ApprovalId
from paybill_contracts.values import Count, Digest, Key, TenantId, Text, Timestamp

RunId = Annotated[
    str, StringConstraints(pattern=r"^run_[0-9a-f]{32}$"), Field(examples=["run_0123456789abcdef0123456789abcdef"])
]

FactValue: TypeAlias = Scalar | Personal[str] | None
"""A value in a fact. A personal column's value is the sealed JSON text of it."""

Fields: TypeAlias = dict[Key, FactValue]


class RunFact(Event):
    """Common fields of the facts of a run."""

    tenant_id: TenantId
    run_id: RunId
    bundle_hash: Digest


class RunStarted(RunFact, type="agent-gateway.run_started", version=1, aggregate="run", key="run_id"):
    """A run has begun. first_seq: of its first call; above 1 when an earlier attempt of the business key wrote nothing.

    agent_id: None when no agent started it. has_trusted_inputs: a person or a service gave the inputs.
    reserved: the part of the day's budgets that the run may use.
    """

    agent_id: AgentId | None
    role: Key
    workflow: Key
    blueprint: Key
    inputs: Fields
    has_trusted_inputs: bool
    first_seq: Count
    digest: Digest
    reserved: Amounts
    started_by: CallerSubject
    started_at: Timestamp
    expires_at: Timestamp


class ActionFact(RunFact):
    """Common fields of the facts of an action. (run_id, seq) is its key in the tenant's database."""

    seq: Count
    step: Key
    workflow: Key | None = None


class ActionIntended(ActionFact, type="agent-gateway.action_intended", version=1, aggregate="run", key="run_id"):
    """A write is executed next. digest: of the call and the rows that it is about; grants: that permit it.

    grants_hash: the bundle of the grants, in force at the decision; None in facts of earlier versions.
    """

    verb: Verb
    resource: Key
    digest: Digest
    arguments: Fields
    grants: tuple[Text, ...]
    reserved: Amounts
    approval_id: ApprovalId | None
    intended_at: Timestamp
    grants_hash: Digest | None = None


class ActionDone(ActionFact, type="agent-gateway.action_done", version=1, aggregate="run", key="run_id"):
    """An action is done: rows were read or changed, or a value was computed or an option chosen.

    verb, resource: None for a step that needs no database. digest: of the call. rows: as they were read, or as they are
    after a write; used: settles what was reserved. chosen: name of the option. grants_hash: the bundle of the grants,
    in force at the decision; None without a statement, and in facts of earlier versions.
    """

    verb: Verb | None
    resource: Key | None
    digest: Digest
    arguments: Fields
    grants: tuple[Text, ...]
    rows: tuple[Fields, ...]
    used: Amounts
    chosen: Key | None
    done_at: Timestamp
    grants_hash: Digest | None = None


class ActionFailed(ActionFact, type="agent-gateway.action_failed", version=1, aggregate="run", key="run_id"):
    """The tenant's database refused the statement; nothing changed."""

    code: Key
    failed_at: Timestamp


class ActionVoided(ActionFact, type="agent-gateway.action_voided", version=1, aggregate="run", key="run_id"):
    """The outcome was unknown, and the action's key is claimed: nothing changed, and nothing can change later."""

    voided_at: Timestamp


class ActionRefused(ActionFact, type="agent-gateway.action_refused", version=1, aggregate="run", key="run_id"):
    """A call was refused before anything was intended. It costs a call. step: that is next in the run.

    agent_id: None when no agent called. called: the step that the call named, if it can be a name of one. digest: of
    the call; None when its arguments have no canonical form. Of a call whose arguments fit the step: verb and resource,
    the arguments, and the grants that decided, which are those of the bundle `grants_hash`. Arguments that the bundle
    in force hides, or that are made of a hidden field, are left out.
    """

    code: Key
    rule: Text
    refused_at: Timestamp
    agent_id: AgentId | None = None
    called: Key | None = None
    digest: Digest | None = None
    verb: Verb | None = None
    resource: Key | None = None
    arguments: Fields | None = None
    grants: tuple[Text, ...] = ()
    grants_hash: Digest | None = None


class RowImage(Value):
    """A row before and after a write; None where it does not exist."""

    before: Fields | None
    after: Fields | None


class ApprovalFact(ActionFact):
    """Common fields of the facts of an approval of a call."""

    approval_id: ApprovalId


class CallApprovalRequested(
    ApprovalFact, type="agent-gateway.approval_requested", version=1, aggregate="run", key="run_id"
):
    """A call waits for an approval. subject_hash: over tenant, run, seq, bundle, every argument and the rows as shown.

    requester: who called the step; neither they nor who started the run may approve. other_rows: numbers of rows that
    triggers and referential actions change beside `rows`, by table.
    """

    subject_hash: Digest
    digest: Digest
    verb: Verb
    resource: Key
    arguments: Fields
    rows: tuple[RowImage, ...]
    reason: Text
    requester: CallerSubject
    requested_at: Timestamp
    expires_at: Timestamp
    other_rows: dict[Key, Count] = Field(default={})


class CallApprovalGranted(
    ApprovalFact, type="agent-gateway.approval_granted", version=1, aggregate="run", key="run_id"
):
    """A person approved the call with this hash; it can be executed once."""

    approval: Approval


class CallApprovalDenied(ApprovalFact, type="agent-gateway.approval_denied", version=1, aggregate="run", key="run_id"):
    """A person denied the call."""

    denied_by: Subject
    reason: Text
    denied_at: Timestamp


class CallApprovalExpired(
    ApprovalFact, type="agent-gateway.approval_expired", version=1, aggregate="run", key="run_id"
):
    """The time to approve or to use the approval has passed, or the rows have changed since it was requested."""

    reason: Text
    expired_at: Timestamp


class RunEnd(StrEnum):
    """Reason of the end of a run."""

    FINISHED = "finished"
    FAILED = "failed"
    EXPIRED = "expired"
    DENIED = "denied"
    OUT_OF_BUDGET = "out_of_budget"
    STOPPED = "stopped"


class RunEnded(RunFact, type="agent-gateway.run_ended", version=1, aggregate="run", key="run_id"):
    """A run has ended. actions: reads and writes done in it, which billing counts; used: of budgets.

    A write with an unknown outcome at the end of a stopped run is in `used`, and in no `actions`; it is settled later.
    """

    agent_id: AgentId | None
    workflow: Key
    reason: RunEnd
    actions: Count
    used: Amounts
    started_at: Timestamp
    ended_at: Timestamp


class DayFact(Event):
    """Common fields of the facts of a tenant's day (UTC), which holds the budgets of all its runs."""

    tenant_id: TenantId
    day_id: Annotated[
        str,
        StringConstraints(pattern=r"^ten_[0-9a-f]{32}/[0-9]{4}-[0-9]{2}-[0-9]{2}$"),
        Field(examples=["ten_0123456789abcdef0123456789abcdef/2026-01-31"]),
    ]
    run_id: RunId
    agent_id: AgentId | None
    workflow: Key


class BudgetReserved(DayFact, type="agent-gateway.budget_reserved", version=1, aggregate="agent-day", key="day_id"):
    """A run has reserved all that it may use of the day's budgets."""

    attempt_seq: Count
    reserved: Amounts


class BudgetSettled(DayFact, type="agent-gateway.budget_settled", version=1, aggregate="agent-day", key="day_id"):
    """A run has ended; what it did not use is free again. actions: done in it."""

    attempt_seq: Count
    used: Amounts
    actions: Count
