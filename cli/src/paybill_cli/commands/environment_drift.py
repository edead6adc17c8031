"""`paybill environment drift`: compares environments with what exists, lists differences and accepts them."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from paybill_cli import completion, formatting
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id
from paybill_cli.errors import usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import RequestOptions
from paybill_cli.output import Output
from paybill_cli.texts import text

COLUMNS = ("tenant", "difference", "kind", "resource", "attribute", "expected", "observed", "since", "accepted")

Tenant = Annotated[
    str | None,
    typer.Argument(
        help="Slug or id of the tenant; all when it is omitted.", metavar="TENANT", autocompletion=completion.tenants
    ),
]
Accepted = Annotated[
    str | None, typer.Option("--accept", help="Id of a difference of the tenant that is right as it is.")
]
AcceptReason = Annotated[
    str | None,
    typer.Option("--reason", parser=text, help="Reason to accept it; kept in the log permanently: no personal data."),
]


def drift(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    tenant: Tenant = None,
    accept: Accepted = None,
    reason: AcceptReason = None,
) -> int:
    """Compare environments with what exists, and list the differences.

    With --dry-run those of the last check. With --accept a difference stays as it is; --reason says why.
    Exit code 1 while there is a difference that nobody accepted.

    Example: paybill environment drift acme
    """
    if accept is not None and (tenant is None or reason is None):
        raise usage("--accept needs a tenant and --reason", next="paybill environment drift --help")
    with Service(stack, "provisioner") as provisioner:
        if tenant is None:
            found = _all(out, provisioner, check=not options.dry_run)
        else:
            path = f"/v1/environments/{tenant_id(stack, tenant)}/drift"
            if accept is not None:
                body = {"reason": reason}
                if options.dry_run:
                    preview(out, provisioner, f"{path}/{accept}/accept", body, options.idempotency_key)
                    return int(ExitCode.OK)
                found = post(out, provisioner, f"{path}/{accept}/accept", body, options.idempotency_key)["differences"]
            elif options.dry_run:
                found = provisioner.get(path)["differences"]
            else:
                found = post(out, provisioner, path, None, options.idempotency_key)["differences"]
    out.rows("environment.drift", found if out.json else [_row(each) for each in found], COLUMNS)
    open_ = [each for each in found if each["accepted"] is None]
    if not open_:
        return int(ExitCode.OK)
    repairable = [each for each in open_ if each["address"] is not None]
    if repairable:
        out.info(f"next: paybill environment plan {repairable[0]['slug']}")
    return int(ExitCode.FAILED)


def _all(out: Output, provisioner: Service, *, check: bool) -> list[dict[str, Any]]:
    """Returns the differences of all environments. check: after a comparison of each."""
    after: str | None = ""
    with out.progress("comparing") as progress:
        while check and after is not None:
            after = provisioner.post(f"/v1/drift?after={after}", None)["next"]
            if after is not None:
                progress.update(f"comparing, {int(after[:2].ljust(2, '0'), 16) * 100 // 256} %")
    found: list[dict[str, Any]] = []
    query: dict[str, Any] | None = None
    while True:
        page = provisioner.get("/v1/drift", query)
        found += page["differences"]
        if page["next"] is None:
            return found
        query = {"after": page["next"]}


def _row(each: Mapping[str, Any]) -> dict[str, Any]:
    resource = each["address"] or f"{each['resource']} {each['name']}"
    since = formatting.time(each["since"])
    return {**each, "tenant": each["slug"], "difference": each["id"], "resource": resource, "since": since}
