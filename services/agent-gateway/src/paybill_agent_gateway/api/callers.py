"""Callers of the service's routes, by their role and scope."""

from typing import Annotated

from fastapi import Depends
from paybill_runtime.http.auth import AGENT, Role
from paybill_runtime.http.caller import Caller, caller

from paybill_agent_gateway.domain.calls import CallCaller

Viewer = Annotated[Caller, Depends(caller(Role.VIEWER, "agent-gateway:read"))]
Operator = Annotated[Caller, Depends(caller(Role.OPERATOR, "agent-gateway:write"))]
Approver = Annotated[Caller, Depends(caller(Role.APPROVER, "agent-gateway:write"))]
RunViewer = Annotated[Caller, Depends(caller(Role.VIEWER, "agent-gateway:read", accepts_bound=True))]
"""A viewer, or an agent, which may only see its own runs."""
Actor = Annotated[Caller, Depends(caller(Role.OPERATOR, "agent-gateway:write", has_dry_run=False, accepts_bound=True))]
"""An agent, or an operator or a program that starts runs with trusted inputs. There is no dry run of a call."""


def call_caller(principal: Caller, tenant_id: str) -> CallCaller:
    """Returns the caller of an action for a tenant. Raises WrongTenantError for an agent of another one."""
    principal.require_tenant(tenant_id)
    if principal.agent_role is None:
        return CallCaller(tenant_id, principal.subject)
    return CallCaller(tenant_id, principal.subject, principal.subject.removeprefix(AGENT), principal.agent_role)
