"""Parameters that the routes of all contexts share: the caller's role, the size of a page, dry runs."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Query
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller

Viewer = Annotated[Caller, Depends(caller(Role.VIEWER, "billing:read"))]
Operator = Annotated[Caller, Depends(caller(Role.OPERATOR, "billing:write"))]
PROVIDER_PROBLEMS: Mapping[int, tuple[str, ...]] = {502: ("provider_refused",), 503: ("provider_away",)}
"""Problems of routes that call a provider."""
OperatorAtProvider = Annotated[Caller, Depends(caller(Role.OPERATOR, "billing:write", has_dry_run=False))]
"""The operator of a route that calls a provider before it decides."""
DryRun = Annotated[bool, Query(description="Returns the result and changes nothing.")]
