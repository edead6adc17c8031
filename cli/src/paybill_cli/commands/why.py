"""`paybill why`: asks every service about a tenant, and prints the root cause, the facts, and the next command."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from paybill_cli.client.disks import fullest_disk
from paybill_cli.client.http import Service
from paybill_cli.client.stack import SERVICES, Stack
from paybill_cli.client.tenants import for_reading, tenant_id
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import TenantName
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_contracts.why import Explanation, Machine, Unanswered

DEADLINE_S = 5.0
"""Time in which all services have to answer."""
_LEAST_S = 0.5
"""Time that is left for the other services when the tenant service needed almost all of it."""


def why(out: Output, stack: Stack, tenant: TenantName) -> int:
    """Explain a tenant's state, the root cause first.

    Asks all services at once, and names those that do not answer in 5 seconds. Exit code 1 when there is a cause.

    Example: paybill why acme
    """
    with out.progress(f"asking {', '.join(SERVICES)}"):
        explanation = explained(stack, tenant)
    fields = for_reading(out, stack, _fields(explanation))
    causes = fields["causes"]
    if out.json:
        out.record("why", fields)
    else:
        out.record("why", {"why": fields["headline"]}, ("why",))
        if causes:
            _title(out, "Causes, the root cause first")
            out.rows("why.causes", causes, ("kind", "service", "summary", "command"))
        if fields["chain"]:
            _title(out, "Last facts")
            out.rows("why.chain", fields["chain"], ("at", "service", "sentence"))
    for each in explanation.unanswered:
        out.info(f"{each.service} did not answer: {each.detail}")
    if causes and not out.json:
        for text in causes[0]["because"]:
            out.info(text)
    if explanation.causes or explanation.step:
        out.info(f"next: {fields['next']}")
    return int(ExitCode.FAILED if explanation.causes else ExitCode.OK)


def _title(out: Output, text: str) -> None:
    """Separates the parts for people at a terminal; programs read the rows of a pipe."""
    if sys.stdout.isatty():
        out.info("")
        out.info(text)


def _fields(explanation: "Explanation") -> dict[str, Any]:
    """Returns the fields of an explanation as JSON values."""
    return {
        "tenant": explanation.tenant,
        "headline": explanation.headline,
        "causes": [asdict(cause) for cause in explanation.causes],
        "chain": [asdict(link) for link in explanation.chain],
        "unanswered": [each.model_dump(mode="json") for each in explanation.unanswered],
        "next": explanation.command,
    }


def explained(stack: Stack, tenant: str) -> "Explanation":
    """Returns the explanation of a tenant. Raises CliError for an unknown tenant."""
    from paybill_contracts.why import ServicePart, Unanswered
    from paybill_contracts.why_causes import explain

    machine, began = _machine(stack), monotonic()
    parts: list[ServicePart] = []
    unanswered: list[Unanswered] = []
    try:
        id_ = tenant_id(stack, tenant, timeout_s=DEADLINE_S, attempts=1)
    except CliError as error:
        if error.exit_code is not ExitCode.UNREACHABLE:
            raise
        unanswered.append(_unanswered("tenant", error))
        id_ = ""
    left_s = max(began + DEADLINE_S - monotonic(), _LEAST_S)

    def ask(name: str) -> ServicePart | Unanswered:
        try:
            with Service(stack, name, timeout_s=left_s, attempts=1) as service:
                part = ServicePart.model_validate_json(json.dumps(service.get(f"/v1/why/{id_}")))
        except CliError as error:
            if error.exit_code is ExitCode.DENIED:
                raise
            return _unanswered(name, error)
        # Responses arrive at different times: only the difference of the clocks counts.
        return part.model_copy(update={"now": machine.now + (part.now - datetime.now(UTC))})

    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(copy_context().run, ask, name) for name in SERVICES if id_]
    for response in (each.result() for each in asked):
        if isinstance(response, ServicePart):
            parts.append(response)
        else:
            unanswered.append(response)
    if any(part.service == "tenant" and part.tenant is None for part in parts):
        raise CliError(
            "tenant_not_found", f"there is no tenant {tenant}", next="paybill tenant list", exit_code=ExitCode.NOT_FOUND
        )
    slug = next((part.tenant.slug for part in parts if part.tenant), tenant)
    return explain(slug, parts, unanswered, machine)


def _unanswered(service: str, error: CliError) -> "Unanswered":
    from paybill_contracts.why import Unanswered

    return Unanswered(service=service, code=error.code, detail=error.message[:1000])


def _machine(stack: Stack) -> "Machine":
    from paybill_contracts.why import Machine

    disk = fullest_disk(stack.data_dir)
    if disk is None:
        return Machine(now=datetime.now(UTC))
    return Machine(now=datetime.now(UTC), free_mib=disk.free_bytes // 1024**2, disk=str(disk.folder))
