"""Events that the agent gateway publishes about its operation, as every service does."""

from paybill_contracts.operations import (
    IntakeQuarantined,
    JobCancelled,
    JobRetried,
    MessageDeadLettered,
    MessageRedriven,
    MessageSkipped,
    RequestRefused,
)


class AgentGatewayRequestRefused(
    RequestRefused, type="agent-gateway.request_refused", version=1, aggregate="refusal", key="refusal_id"
):
    """A domain rule of this context refused a caller."""


class AgentGatewayMessageDeadLettered(
    MessageDeadLettered,
    type="agent-gateway.message_dead_lettered",
    version=1,
    aggregate="dead-letter",
    key="message_key",
):
    """An event that this context subscribes to is a dead letter and waits for an operator."""


class AgentGatewayMessageRedriven(
    MessageRedriven, type="agent-gateway.message_redriven", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator retried a dead letter."""


class AgentGatewayMessageSkipped(
    MessageSkipped, type="agent-gateway.message_skipped", version=1, aggregate="dead-letter", key="message_key"
):
    """An operator skipped a dead letter."""


class AgentGatewayJobRetried(JobRetried, type="agent-gateway.job_retried", version=1, aggregate="job", key="job_id"):
    """An operator retried a background job."""


class AgentGatewayJobCancelled(
    JobCancelled, type="agent-gateway.job_cancelled", version=1, aggregate="job", key="job_id"
):
    """An operator cancelled a background job."""


class AgentGatewayIntakeQuarantined(
    IntakeQuarantined, type="agent-gateway.intake_quarantined", version=1, aggregate="quarantine", key="quarantine_id"
):
    """The owner of a message's type refused it."""
