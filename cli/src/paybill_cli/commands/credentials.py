"""`paybill environment credentials`: requests a tenant's passwords, and shows the references to them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from paybill_contracts.errors import DomainError

from paybill_cli.client.http import Service
from paybill_cli.client.requests import post, preview
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import tenant_id
from paybill_cli.client.waiting import Deadline
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import RequestOptions, TenantName, Timeout
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_runtime.security.secrets import FileSecrets

COLUMNS = ("address", "host", "port", "database", "schema", "user", "secret")


def credentials(
    out: Output,
    stack: Stack,
    options: RequestOptions,
    tenant: TenantName,
    reveal: Annotated[
        bool,
        typer.Option("--reveal", help="Print the passwords, too; needs the data directory of the installation."),
    ] = False,
    timeout: Timeout = 60,
) -> None:
    """Show a tenant's logins and the references of their passwords.

    The first request makes the passwords, and every later one shows the same. A suspended or retained tenant gets none.

    Example: paybill environment credentials acme
    """
    path = f"/v1/environments/{tenant_id(stack, tenant)}/credentials"
    secrets = _secrets(stack) if reveal and not options.dry_run else None
    with Service(stack, "provisioner") as provisioner:
        if options.dry_run:
            preview(out, provisioner, path, None, options.idempotency_key)
            return
        found = post(out, provisioner, path, None, options.idempotency_key)
        deadline = Deadline(timeout, next=f"paybill environment credentials {tenant}")
        while found["requested"]:
            deadline.pause("the passwords are being made")
            found = provisioner.get(path)
    if not found["complete"]:
        raise CliError(
            "credentials_not_made",
            f"{tenant} left before its passwords were made",
            next=f"paybill environment show {tenant}",
            exit_code=ExitCode.CONFLICT,
        )
    rows = [_row(each) for each in found["connections"]]
    if secrets is None:
        out.rows("environment.credentials", rows, COLUMNS)
        out.info(
            f"next: paybill environment credentials {tenant} --reveal   or read the reference in the secrets store"
        )
        return
    out.rows(
        "environment.credentials",
        [row | {"password": _password(secrets, row["secret"])} for row in rows],
        (*COLUMNS, "password"),
    )


def _row(connection: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "address": connection["address"],
        "host": connection["host"],
        "port": connection["port"],
        "database": connection["database"],
        "schema": connection["schema_name"],
        "user": connection["username"],
        "secret": connection["secret"],
    }


def _secrets(stack: Stack) -> "FileSecrets":
    """Returns the secrets store in the data directory, as the operator reads it. Raises CliError without one."""
    from paybill_runtime.errors import ConfigurationError
    from paybill_runtime.security.identity import Identity
    from paybill_runtime.security.secrets import FileSecrets
    from paybill_stack.layout import Layout

    layout = Layout(stack.data_dir.absolute())
    try:
        return FileSecrets(layout.secrets, Identity.load(layout.identities, "operator"))
    except ConfigurationError as error:
        raise _not_readable(f"{layout.identities}: {error}") from error


def _password(secrets: "FileSecrets", reference: str | None) -> str | None:
    if reference is None:
        return None
    try:
        return secrets.read(reference)
    except (DomainError, OSError) as error:
        raise _not_readable(str(error)) from error


def _not_readable(why: str) -> CliError:
    return CliError(
        "secret_not_readable",
        "the passwords cannot be read here",
        why=why,
        next="use --data-dir of the installation, or read the reference in its secrets store",
        exit_code=ExitCode.DENIED,
    )
