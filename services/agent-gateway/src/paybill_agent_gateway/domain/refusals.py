"""Refusals of calls, each with its stable code (docs/agents.md lists them)."""

from paybill_contracts.errors import ConflictError, DomainError, ForbiddenError, NotFoundError, RetryLaterError

from paybill_agent_gateway.domain.columns import ValueRefusedError


class AgentNotActiveError(ForbiddenError):
    """The agent is unknown, has ended, has expired, or acts for another tenant."""

    code = "agent_not_active"


class FrozenError(ConflictError):
    """An operator has frozen everything, or this tenant, agent or workflow."""

    code = "frozen"


class WorkflowNotFoundError(NotFoundError):
    """The bundle in force has no such workflow for this caller."""

    code = "workflow_not_found"


class UnknownToolError(NotFoundError):
    """The role of the agent has no such tool. Over MCP, this is an error of the protocol."""

    code = "unknown_tool"


class NoBundleError(ConflictError):
    """No bundle is in force for the blueprint of this tenant."""

    code = "no_bundle"


class RunNotFoundError(NotFoundError):
    """The caller's tenant has no such run in the caller's role."""

    code = "run_not_found"


class InputsDifferError(ConflictError):
    """A run with this business key or request has other inputs."""

    code = "inputs_differ"


class RunEndedError(ConflictError):
    """The run has ended."""

    code = "run_ended"


class StepNotAllowedError(ConflictError):
    """Another step is next in this run."""

    code = "step_not_allowed"


class StepExhaustedError(ConflictError):
    """The step has been executed as often as the workflow allows."""

    code = "step_exhausted"


class WrongSeqError(ConflictError):
    """The number of the call is not the one that the last answer named."""

    code = "wrong_seq"


class SeqReusedError(ConflictError):
    """Another call, with other arguments, has used this number."""

    code = "seq_reused"


class OutcomePendingError(RetryLaterError):
    """The outcome of the last write is not known yet; it is settled by itself."""

    code = "outcome_pending"


class InvalidInputError(DomainError):
    """An input, a slot or a choice is missing, unknown, of another type or outside its bounds."""

    code = "invalid_input"


class InvalidFieldError(ConflictError):
    """A field on which the step depends is NULL, or not a value of the type that the step needs."""

    code = "invalid_field"


class NotPermittedError(ForbiddenError):
    """The grants in force do not permit the step, or forbid it."""

    code = "not_permitted"


class UntrustedValueError(ForbiddenError):
    """A value from the model would decide about a trusted field, and the workflow has no approval for it."""

    code = "untrusted_value"


class BudgetExceededError(ConflictError):
    """The call would exceed a budget of the run, or the run one of the agent's, tenant's or key's day."""

    code = "budget_exceeded"


class OutOfBudgetError(ConflictError):
    """The run has used all of its calls, and ends."""

    code = "out_of_budget"


class ApprovalRequiredError(ConflictError):
    """A person has to approve the call; repeat it after the decision."""

    code = "approval_required"


class ApprovalDeniedError(ConflictError):
    """A person has denied the call."""

    code = "approval_denied"


class ApprovalExpiredError(ConflictError):
    """The time to approve the call, or to use the approval, has passed."""

    code = "approval_expired"


class RowsChangedError(ConflictError):
    """The rows are not those that the approver saw, or on which the rule about approvals was decided."""

    code = "rows_changed"


class ApprovalNotFoundError(NotFoundError):
    """No call has such an approval."""

    code = "approval_not_found"


class ApprovalEndedError(ConflictError):
    """The approval is granted, denied, used or expired already."""

    code = "approval_ended"


class RowMissingError(NotFoundError):
    """No row has these values."""

    code = "row_missing"


class TooManyRowsError(ConflictError):
    """More rows have these values than the step may read or change."""

    code = "too_many_rows"


class RowsTooLargeError(ConflictError):
    """The rows of the call do not fit into one fact: they are too many or too wide, or a personal value is too long."""

    code = "rows_too_large"


class RowDeniedError(ForbiddenError):
    """The grants do not permit a row as it is or as it would be."""

    code = "row_denied"


class RowExistsError(ConflictError):
    """A row with this key exists."""

    code = "row_exists"


class ResourceDriftedError(ConflictError):
    """The table is not as the bundle describes it."""

    code = "resource_drifted"


class DatabaseUnavailableError(RetryLaterError):
    """The tenant's database cannot be used now; nothing was changed. Repeat the call later, unchanged."""

    code = "database_unavailable"


class ActionVoidedError(ConflictError):
    """The outcome of the write was unknown, and is settled: nothing changed. Repeat it under the next number."""

    code = "action_voided"


BY_DATABASE: dict[str, type[DomainError]] = {
    error.code: error
    for error in (
        RowMissingError,
        TooManyRowsError,
        RowDeniedError,
        RowExistsError,
        RowsChangedError,
        ValueRefusedError,
        ResourceDriftedError,
        DatabaseUnavailableError,
        ActionVoidedError,
    )
}
"""Refusals that follow from a statement, by code."""

_MESSAGES = {
    "row_missing": "no row has these values",
    "too_many_rows": "more rows have these values than the step may read or change; nothing was changed",
    "row_denied": "the grants do not permit a row of this step; nothing was changed",
    "row_exists": "a row with this key exists; nothing was changed",
    "rows_changed": "the rows have changed since the call was decided; repeat it under the next number",
    "value_refused": "the database refuses a value; nothing was changed",
    "resource_drifted": "the table is not as the bundle describes it; an operator has to run: paybill agent check",
    "database_unavailable": "the tenant's database cannot be used now; nothing was changed, send the call again later",
    "action_voided": "the outcome was unknown and is settled now: nothing changed; repeat it under the next number",
}


def by_database(code: str) -> DomainError:
    """Returns the refusal with a code that a statement has led to."""
    return BY_DATABASE[code](_MESSAGES[code])
