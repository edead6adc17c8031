"""Events of an environment: the closed union that its state is folded from."""

from paybill_contracts.agent_access import AgentLoginRequested, AgentRightsGranted, AgentRightsRequested
from paybill_contracts.credentials import CredentialsMade, CredentialsRequested
from paybill_contracts.drift import EnvironmentDriftAccepted, EnvironmentDriftEnded, EnvironmentDriftFound
from paybill_contracts.environment_plans import (
    EnvironmentChanged,
    EnvironmentDesired,
    EnvironmentPlanned,
    EnvironmentReady,
    PlanRefused,
    ResourceBuilt,
    ResourceRemoved,
    StepPending,
    StepsIntended,
)
from paybill_contracts.environment_requests import MoveRequested, ProrationNoted
from paybill_contracts.plan_approvals import (
    ApprovalGranted,
    ApprovalRejected,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoid,
    PlanSuperseded,
)
from paybill_contracts.plan_execution import CompensationEnded, CompensationStarted, PlanPaused, PlanResumed
from paybill_contracts.provisioner import (
    AccessChangeStarted,
    AccessClosed,
    AccessOpened,
    EnvironmentChangePending,
    EnvironmentChangeSettled,
    EnvironmentFailed,
    EnvironmentRegistered,
    EnvironmentRetained,
    RestorationStarted,
    RetentionStarted,
)
from paybill_contracts.purges import DeletionEnded, DeletionStarted, DeletionStopped, EnvironmentPurged
from paybill_contracts.table_rebuilds import TablesInspected, TablesInspectionRequested

EnvironmentEvent = (
    EnvironmentRegistered
    | EnvironmentDesired
    | PlanRefused
    | EnvironmentPlanned
    | ResourceBuilt
    | ResourceRemoved
    | StepsIntended
    | StepPending
    | EnvironmentFailed
    | EnvironmentReady
    | EnvironmentChanged
    | AccessChangeStarted
    | AccessOpened
    | AccessClosed
    | RetentionStarted
    | EnvironmentRetained
    | EnvironmentChangePending
    | EnvironmentChangeSettled
    | RestorationStarted
    | ApprovalRequested
    | ApprovalGranted
    | ApprovalRejected
    | ApprovalUsed
    | ApprovalVoid
    | PlanSuperseded
    | CredentialsRequested
    | CredentialsMade
    | DeletionStarted
    | DeletionStopped
    | DeletionEnded
    | EnvironmentPurged
    | EnvironmentDriftFound
    | EnvironmentDriftEnded
    | EnvironmentDriftAccepted
    | PlanPaused
    | PlanResumed
    | CompensationStarted
    | CompensationEnded
    | MoveRequested
    | ProrationNoted
    | TablesInspectionRequested
    | TablesInspected
    | AgentLoginRequested
    | AgentRightsRequested
    | AgentRightsGranted
)

KEEP_BASE = (
    EnvironmentDesired,
    PlanRefused,
    AccessChangeStarted,
    AccessOpened,
    AccessClosed,
    EnvironmentChangePending,
    EnvironmentChangeSettled,
    ApprovalRequested,
    ApprovalGranted,
    ApprovalRejected,
    ApprovalUsed,
    ApprovalVoid,
    PlanSuperseded,
    CredentialsRequested,
    CredentialsMade,
    DeletionStopped,
    EnvironmentDriftFound,
    EnvironmentDriftEnded,
    EnvironmentDriftAccepted,
    PlanPaused,
    PlanResumed,
    MoveRequested,
    ProrationNoted,
    TablesInspectionRequested,
    TablesInspected,
    AgentRightsRequested,
    AgentRightsGranted,
)
"""Events that change nothing that is recorded: a plan that was made before them is still right.

Drift supersedes it by the hash of what was observed.
"""
