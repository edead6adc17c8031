"""Options that several commands share, single and in groups."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import typer

from paybill_cli import completion
from paybill_cli.texts import text


class OptionGroup:
    """Base of classes whose fields become options of each command with a parameter of that class."""

    @classmethod
    def of(cls, values: Mapping[str, Any], given: Collection[str]) -> Self:
        """Returns the group. given: names of the options that the command line or the environment sets."""
        del given
        return cls(**values)


_REASON = typer.Option("--reason", parser=text, help="Reason; kept in the log permanently: no personal data.")
Reason = Annotated[str, _REASON]
OptionalReason = Annotated[str | None, _REASON]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Preview the result, and change nothing.")]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        help="Repeat an attempt whose outcome is unknown: requests with the same key are executed once.",
    ),
]
TenantName = Annotated[
    str, typer.Argument(help="Slug or id of the tenant.", metavar="TENANT", autocompletion=completion.tenants)
]
OnlyTenant = Annotated[
    str | None, typer.Option("--tenant", help="Only this tenant: slug or id.", autocompletion=completion.tenants)
]
SubscriptionName = Annotated[
    str,
    typer.Argument(
        help="Id of the subscription, or slug or id of its tenant.",
        metavar="SUBSCRIPTION",
        autocompletion=completion.tenants,
    ),
]
TargetPlan = Annotated[
    str | None,
    typer.Option(
        "--plan", help="Plan such as pro, or version such as pro@2.", autocompletion=completion.plans_and_versions
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Maximum number of rows.")]
Detach = Annotated[bool, typer.Option("--detach", help="Do not wait for the end; the service continues.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait; then the exit code is 8.")]
Interval = Annotated[Literal["month", "year"] | None, typer.Option("--interval", help="Billing interval.")]


@dataclass(frozen=True)
class RequestOptions(OptionGroup):
    """Options of a change without a confirmation. It accepts `--yes`, so that a script can add it to every change."""

    idempotency_key: IdempotencyKey = None
    dry_run: DryRun = False
    yes: Annotated[bool, typer.Option("--yes", "-y", hidden=True)] = False


@dataclass(frozen=True)
class ConfirmedOptions(RequestOptions):
    """Options of a change with a confirmation."""

    yes: Yes = False
