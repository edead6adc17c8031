"""What the routes share: who may call them, one state by its id, and pages of states in the order of their ids."""

from typing import Annotated, Protocol, TypeVar

from fastapi import Depends, Query
from paybill_runtime.decisions.aggregates import StateRow
from paybill_runtime.decisions.context import Caller, ServiceContext, caller
from paybill_runtime.http.auth import Role
from sqlalchemy import ColumnElement, Label, Text, cast
from sqlmodel import col, select

from paybill_billing.subscriptions.domain.accounts import Account, UnknownTenantError
from paybill_billing.subscriptions.tables import ACCOUNTS

S_co = TypeVar("S_co", covariant=True)

MAX_PAGE = 200

Reader = Annotated[Caller, Depends(caller(Role.VIEWER, "billing:read"))]
Writer = Annotated[Caller, Depends(caller(Role.OPERATOR, "billing:write"))]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most.")]
DryRun = Annotated[bool, Query(description="Answer what would come of it, and change nothing.")]


class Kept(Protocol[S_co]):
    """A kind of aggregate (`Stored`), as far as reading goes."""

    @property
    def row(self) -> type[StateRow]:
        """Its table."""

    def load(self, document: str) -> S_co:
        """The state from its JSON."""


def document(row: type[StateRow]) -> Label[str]:
    """The state as text, which is what `Stored.load` reads."""
    return cast(col(row.state), Text).label("state")


async def found(context: ServiceContext, kind: Kept[S_co], id_: str) -> S_co | None:
    """The state of one, as it was committed last."""
    rows = await context.rows(select(document(kind.row)).where(kind.row.id == id_))
    return kind.load(rows[0].state) if rows else None


async def account_of(context: ServiceContext, tenant_id: str) -> Account:
    """Raises UnknownTenantError."""
    account = await found(context, ACCOUNTS, tenant_id)
    if account is None:
        raise UnknownTenantError(f"billing knows no tenant {tenant_id}")
    return account


async def page(
    context: ServiceContext,
    kind: Kept[S_co],
    after: str | None,
    limit: int,
    *also: ColumnElement[bool],
    **equal: str | None,
) -> tuple[list[S_co], str | None]:
    """States in the order of their ids, and the id that the next page comes after; None on the last.

    after: only ids behind this one. equal: what columns of the table have to be, where that is given.
    """
    row = kind.row
    wanted = select(col(row.id), document(row)).where(*also).order_by(col(row.id)).limit(limit + 1)
    for name, value in equal.items():
        if value is not None:
            wanted = wanted.where(getattr(row, name) == value)
    if after is not None:
        wanted = wanted.where(col(row.id) > after)
    rows = await context.rows(wanted)
    return [kind.load(each.state) for each in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None
