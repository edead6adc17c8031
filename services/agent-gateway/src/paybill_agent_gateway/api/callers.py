"""Callers of the service's routes, by their role and scope."""

from typing import Annotated

from fastapi import Depends
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller

Viewer = Annotated[Caller, Depends(caller(Role.VIEWER, "agent-gateway:read"))]
Operator = Annotated[Caller, Depends(caller(Role.OPERATOR, "agent-gateway:write"))]
