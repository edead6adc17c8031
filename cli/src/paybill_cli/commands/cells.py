"""`paybill cell`: lists the shared stacks of each region, and drains them."""

from typing import Annotated, Any

import typer

from paybill_cli import completion
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.options import Reason, RequestOptions
from paybill_cli.output import Output

COLUMNS = ("cell", "isolation", "region", "tenants", "capacity", "free", "drained", "breach")


def list_all(
    out: Output,
    stack: Stack,
    region: Annotated[
        str | None, typer.Option("--region", help="Only cells of this region.", autocompletion=completion.regions)
    ] = None,
) -> None:
    """List cells with their tenants, capacity and free places.

    Example: paybill cell list --region eu-central
    """
    with Service(stack, "provisioner") as provisioner:
        found = provisioner.get("/v1/cells", {"region": region} if region is not None else None)["cells"]
    out.rows("cell.list", [_row(each) for each in found], COLUMNS)


def drain(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    cell: Annotated[str, typer.Argument(help="Id of the cell.", metavar="CELL")],
    reason: Reason,
    undo: Annotated[bool, typer.Option("--undo", help="Let the cell take new tenants again.")] = False,
) -> None:
    """Stop a cell from taking new tenants; those in it stay.

    Example: paybill cell drain pool-eu-central-1 --reason "its server is replaced"
    """
    path, body = f"/v1/cells/{cell}/drain", {"reason": reason, "undo": undo}
    with Service(stack, "provisioner") as provisioner:
        if options.dry_run:
            preview(out, provisioner, path, body, options.idempotency_key)
            return
        found = post(out, provisioner, path, body, options.idempotency_key)
    out.record("cell", _row(found), COLUMNS)


def _row(cell: dict[str, Any]) -> dict[str, Any]:
    first, *others = cell["breaches"] or [None]
    text = f"{first['guarantee']} at {first['object']}: {first['found']}" if first else None
    return {"cell": cell["id"], **cell, "breach": f"{text}, and {len(others)} more" if others else text}
