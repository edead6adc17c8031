"""`paybill tenant purge | quarantine | end-quarantine` and `paybill environment certificate`."""

from collections.abc import Mapping
from typing import Any

from paybill_cli import formatting
from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id, tenant_path
from paybill_cli.options import ConfirmedOptions, Reason, RequestOptions, TenantName
from paybill_cli.output import Output

FIELDS = ("id", "slug", "status", "waits_for", "approval", "legal_holds", "retain_until")
COLUMNS = ("kind", "isolation", "name", "verified_at", "how")


def purge(out: Output, stack: Stack, options: ConfirmedOptions, tenant: TenantName) -> None:
    """Delete everything of a tenant whose retention period is over.

    It begins by itself at that time. Exit code 6 before it, and under a legal hold. This cannot be undone.

    Example: paybill tenant purge acme --yes
    """
    path = f"{tenant_path(tenant)}/purge"
    with Service(stack, "tenant") as tenants:
        if options.dry_run:
            preview(out, tenants, path, None, options.idempotency_key)
            return
        out.confirm(f"Delete everything of {tenant}? This cannot be undone.", yes=options.yes)
        found = post(out, tenants, path, None, options.idempotency_key)
    out.record("tenant", found, FIELDS)
    out.info(f"next: paybill environment show {found['id']} --watch")


def quarantine(out: Output, stack: Stack, options: ConfirmedOptions, tenant: TenantName, reason: Reason) -> None:
    """Take all access from a tenant for its security, and keep its data.

    No payment and no `paybill tenant resume` ends it; `paybill tenant end-quarantine` does.

    Example: paybill tenant quarantine acme --reason "leaked password" --yes
    """
    path, body = f"{tenant_path(tenant)}/quarantine", {"reason": reason}
    with Service(stack, "tenant") as tenants:
        if options.dry_run:
            preview(out, tenants, path, body, options.idempotency_key)
            return
        out.confirm(f"Quarantine {tenant}? Its sessions end; no data is deleted.", yes=options.yes)
        out.record("tenant", post(out, tenants, path, body, options.idempotency_key), FIELDS)


def end_quarantine(out: Output, stack: Stack, options: RequestOptions, tenant: TenantName) -> None:
    """End the quarantine of a tenant.

    It is active again, or suspended while it has a hold.

    Example: paybill tenant end-quarantine acme
    """
    path = f"{tenant_path(tenant)}/quarantine/end"
    with Service(stack, "tenant") as tenants:
        if options.dry_run:
            preview(out, tenants, path, None, options.idempotency_key)
            return
        out.record("tenant", post(out, tenants, path, None, options.idempotency_key), FIELDS)


def certificate(out: Output, stack: Stack, tenant: TenantName) -> None:
    """Show what a purge deleted, and how its absence was verified.

    Exit code 6 for a tenant that is not purged.

    Example: paybill environment certificate acme
    """
    path = f"/v1/environments/{tenant_id(stack, tenant)}/certificate"
    with Service(stack, "provisioner") as provisioner:
        found = provisioner.get(path)
    if out.json:
        out.record("certificate", found)
        return
    out.rows("certificate.resources", [_row(each) for each in found["resources"]], COLUMNS)
    export = found["export"]
    out.info(
        f"export: {export['export']['location']}, removed, {export['how']}" if export else "export: there was none"
    )
    out.info(f"plan {found['plan_hash'] or 'none'}, purged {formatting.time(found['purged_at'])}")


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    return {**found, "verified_at": formatting.time(found["verified_at"])}
