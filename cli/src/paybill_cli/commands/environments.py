"""`paybill tenant retry`: plans a failed environment again."""

from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id, with_tenant
from paybill_cli.options import RequestOptions, TenantName
from paybill_cli.output import Output

FIELDS = ("tenant", "id", "status", "tier", "preset", "failure")


def retry(out: Output, stack: Stack, options: RequestOptions, tenant: TenantName) -> None:
    """Build a failed environment again, by the current blueprint.

    What is built stays.

    Example: paybill tenant retry acme
    """
    path = f"/v1/environments/{tenant_id(stack, tenant)}/retry"
    with Service(stack, "provisioner") as provisioner:
        if options.dry_run:
            preview(out, provisioner, path, None, options.idempotency_key)
            return
        found = post(out, provisioner, path, None, options.idempotency_key)
    out.record("environment", with_tenant(out, stack, found), FIELDS)
    out.info(f"next: paybill why {tenant}")
