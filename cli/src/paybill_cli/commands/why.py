"""`paybill why`: asks every service about a tenant, and prints the root cause, the facts, and the next command."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from paybill_cli.client.disks import fullest_disk
from paybill_cli.client.http import Service
from paybill_cli.client.stack import SERVICES, Stack
from paybill_cli.client.tenants import tenant_id
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import TenantName
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_contracts.why import Explanation, Machine


def why(out: Output, stack: Stack, tenant: TenantName) -> int:
    """Explain a tenant's state, the root cause first.

    Asks every service, and names those that do not answer. Exit code 1 when there is a cause.

    Example: paybill why acme
    """
    with out.progress(f"asking {', '.join(SERVICES)}"):
        explanation = explained(stack, tenant)
    if out.json:
        out.record("why", _fields(explanation))
    else:
        out.record("why", {"why": explanation.headline}, ("why",))
        rows = [asdict(cause) for cause in explanation.causes]
        if rows:
            out.rows("why.causes", rows, ("kind", "service", "summary", "command"))
        if explanation.chain:
            out.rows("why.chain", [asdict(link) for link in explanation.chain], ("at", "service", "sentence"))
    for each in explanation.unanswered:
        out.info(f"{each.service} did not answer: {each.detail}")
    if not out.json:
        for text in explanation.causes[0].because if explanation.causes else ():
            out.info(text)
    if explanation.causes or explanation.step:
        out.info(f"next: {explanation.command}")
    return int(ExitCode.FAILED if explanation.causes else ExitCode.OK)


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

    machine = _machine(stack)
    parts: list[ServicePart] = []
    unanswered: list[Unanswered] = []
    try:
        id_ = tenant_id(stack, tenant)
    except CliError as error:
        if error.exit_code is not ExitCode.UNREACHABLE:
            raise
        unanswered.append(_unanswered("tenant", error))
        id_ = ""
    for name in SERVICES if id_ else ():
        try:
            with Service(stack, name) as service:
                part = ServicePart.model_validate_json(json.dumps(service.get(f"/v1/why/{id_}")))
            # Services are asked one after the other: only the difference of the clocks counts.
            parts.append(part.model_copy(update={"now": machine.now + (part.now - datetime.now(UTC))}))
        except CliError as error:
            if error.exit_code is ExitCode.DENIED:
                raise
            unanswered.append(_unanswered(name, error))
    if any(part.service == "tenant" and part.tenant is None for part in parts):
        raise CliError(
            "tenant_not_found", f"there is no tenant {tenant}", next="paybill tenant list", exit_code=ExitCode.NOT_FOUND
        )
    slug = next((part.tenant.slug for part in parts if part.tenant), tenant)
    return explain(slug, parts, unanswered, machine)


def _unanswered(service: str, error: CliError) -> Any:
    from paybill_contracts.why import Unanswered

    return Unanswered(service=service, code=error.code, detail=error.message[:1000])


def _machine(stack: Stack) -> "Machine":
    from paybill_contracts.why import Machine

    disk = fullest_disk(stack.data_dir)
    if disk is None:
        return Machine(now=datetime.now(UTC))
    return Machine(now=datetime.now(UTC), free_mib=disk.free_bytes // 1024**2, disk=str(disk.folder))
