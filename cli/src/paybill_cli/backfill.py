"""`paybill provider backfill`: customers that a provider has already become tenants, with what they subscribed to."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import typer

from paybill_cli.asking import Yes
from paybill_cli.calls import PAGE, Service
from paybill_cli.context import Stack
from paybill_cli.customers_file import CustomerRow, read_customers
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.output import Output
from paybill_cli.providers import Name, compared, drifts_of, path_of

COLUMNS = ("line", "customer", "slug", "state", "plan", "tenant_id", "why")

_POLL_S = 0.25
_SETTLING_S = 5.0
"""How long what was just taken over may take to be looked at, when nothing says why it is not."""
_BAR = 24
_OVER = frozenset({"canceled", "incomplete_expired"})
_GIVES_ACCESS = frozenset({"trialing", "active", "grace"})
_GONE = frozenset({"provision_failed", "offboarding", "retained", "cancelled"})
_ASKED_BEFORE = frozenset({"slug_taken", "idempotency_key_reused"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """What a row comes to.

    state: `active`, `waiting` or `refused`; in a dry run `ready`, `done` or `refused`, `unsold` when no price of what
    the customer has sells a plan, `unseen` when it has nothing there that runs. plan: what it has, or would have.
    """

    line: int
    customer: str
    slug: str
    state: str
    plan: str | None = None
    tenant_id: str | None = None
    why: str | None = None


def backfill(
    out: Output,
    stack: Stack,
    provider: Name,
    customers: Annotated[
        Path, typer.Option("--customers", help="CSV with the columns customer, slug, name, email, plan, region.")
    ],
    at_once: Annotated[int, typer.Option("--at-once", min=1, max=32, help="How many are taken over at a time.")] = 4,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait until all are settled.")] = 3600,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become of each row.")] = False,
) -> int:
    """Make tenants of customers that a provider has already.

    Each keeps the subscription that it has there, and pays nothing anew. It can be ended and started again with the
    same file: what is done stays done, and nothing is done twice. Exit 1 when a row was refused; in a dry run when one
    would not become active.

    Example: paybill provider backfill stripe --customers customers.csv --dry-run
    """
    rows = read_customers(customers)
    with Service(stack, "tenant") as tenants, Service(stack, "billing") as billing:
        work = _Backfill(out, tenants, billing, provider, at_once, time.monotonic() + timeout)
        work.check()
        if dry_run:
            found = work.foresee(rows)
            out.say("no tenant was made")
        else:
            out.confirm(f"Make tenants of {len(rows)} customers of {provider}? They keep what they have.", yes=yes)
            found = work.run(rows)
    out.rows("backfill.list", [asdict(one) for one in found], COLUMNS)
    counted = Counter(one.state for one in found)
    out.say(", ".join(f"{count} {state}" for state, count in sorted(counted.items())))
    failing = {"refused", "unsold", "unseen"}
    return int(ExitCode.FAILED if failing & counted.keys() else ExitCode.OK)


class _Backfill:
    """One run of the command."""

    def __init__(
        self, out: Output, tenants: Service, billing: Service, provider: str, at_once: int, deadline: float
    ) -> None:
        self._out = out
        self._tenants = tenants
        self._billing = billing
        self._provider = provider
        self._at_once = at_once
        self._deadline = deadline
        self._stopping = threading.Event()

    def check(self) -> None:
        """Raise CliError unless the provider can do it."""
        path_of(self._provider)
        found = {one["name"]: set(one["capabilities"]) for one in self._billing.get("/v1/providers")}
        if {"adopts", "lists"} <= found.get(self._provider, set()):
            return
        able = [name for name, can in found.items() if {"adopts", "lists"} <= can]
        raise CliError(
            "cannot_adopt",
            f"customers of {self._provider} cannot be taken over here",
            why=f"those of these providers can: {', '.join(able) or 'none'}",
            next="paybill provider list",
            exit_code=ExitCode.NOT_FOUND if self._provider not in found else ExitCode.CONFLICT,
        )

    def foresee(self, rows: Sequence[CustomerRow]) -> list[Found]:
        """What would become of each row, by what the provider lists and we have."""
        run = compared(self._out, self._billing, self._provider, repair=False, timeout_s=self._left())
        theirs: dict[str, list[dict[str, Any]]] = {}
        for drift in drifts_of(self._billing, run=run["id"]):
            if drift["kind"] == "unknown_customer" and drift["provider_status"] not in _OVER:
                theirs.setdefault(drift["customer"], []).append(drift)
        plans = {plan["plan"] for plan in self._billing.get("/v1/catalogue")["plans"]}
        return self._each("looked up", rows, lambda row: self._foreseen(row, theirs.get(row.customer, []), plans))

    def run(self, rows: Sequence[CustomerRow]) -> list[Found]:
        """Take all over, compare everything with the provider, and see where each stands."""
        begun = self._each("taken over", rows, self._take_over)
        compare = compared(self._out, self._billing, self._provider, repair=True, timeout_s=self._left())
        whys = dict(_reasons(drifts_of(self._billing, run=compare["id"])))
        settling = time.monotonic() + _SETTLING_S
        return self._each("settled", begun, lambda one: self._settle(one, whys.get(one.tenant_id or ""), settling))

    def _foreseen(self, row: CustomerRow, theirs: Sequence[Mapping[str, Any]], plans: set[str]) -> Found:
        customer = quote(row.customer, safe="")
        whose = _or_none(lambda: self._billing.get(f"{path_of(self._provider)}/customers/{customer}"))
        tenant = _or_none(lambda: self._tenants.get(f"/v1/tenants/{row.slug}"))
        if whose is not None and tenant is not None and whose["tenant_id"] == tenant["id"]:
            return _found(row, "done", tenant_id=tenant["id"], why=f"it is {tenant['status']}")
        if whose is not None:
            return _found(row, "refused", why=f"the customer is the tenant {whose['tenant_id']} already")
        if tenant is not None:
            return self._begun_before(row, tenant)
        if row.plan not in plans:
            return _found(row, "refused", why=f"there is no plan {row.plan}; on sale are {', '.join(sorted(plans))}")
        if not theirs:
            return _found(row, "unseen", why="no such customer has a subscription there that runs")
        sells = next((f"{one['plan']}@{one['version']}" for one in theirs if one["plan"]), None)
        if sells is None:
            return _found(row, "unsold", why="no price that it pays sells a plan; add it to provider_prices of one")
        return _found(row, "ready", plan=sells)

    def _begun_before(self, row: CustomerRow, tenant: Mapping[str, Any]) -> Found:
        account = self._account(tenant["id"])
        if account is None or account["adopts"] != row.customer:
            return _found(row, "refused", tenant_id=tenant["id"], why=f"the slug {row.slug} is another tenant's")
        if account["failure"]:
            return _found(row, "refused", tenant_id=tenant["id"], why=account["failure"])
        return _found(row, "ready", tenant_id=tenant["id"], why="it was asked for before")

    def _take_over(self, row: CustomerRow) -> Found:
        """Ask for the tenant, and wait until its account is open. Asked again, this finds the tenant of before."""
        body = {name: getattr(row, name) for name in ("slug", "name", "plan", "region", "customer")}
        body |= {"contact_email": row.email, "payment": self._provider}
        try:
            tenant = self._tenants.post("/v1/tenants", body, key=_key(self._provider, row))
        except CliError as error:
            if error.exit_code not in {ExitCode.USAGE, ExitCode.CONFLICT}:
                raise
            if error.code not in _ASKED_BEFORE:
                return _found(row, "refused", why=error.what)
            tenant = self._tenants.get(f"/v1/tenants/{row.slug}")
        for account in self._watched(lambda: self._account(tenant["id"])):
            if account is None:
                continue
            if account["adopts"] != row.customer or account["provider"] != self._provider:
                return _found(row, "refused", tenant_id=tenant["id"], why=f"the slug {row.slug} is another tenant's")
            if account["status"] == "failed":
                return _found(row, "refused", tenant_id=tenant["id"], why=account["failure"])
            if account["status"] == "open":
                break
        return _found(row, "waiting", tenant_id=tenant["id"], why="its account is being opened")

    def _settle(self, one: Found, why: str | None, settling: float) -> Found:
        """Where a tenant that was taken over stands, as soon as that will not change by itself."""
        if one.state == "refused" or one.tenant_id is None:
            return one
        tenant_id, plan = one.tenant_id, None
        for tenant in self._watched(lambda: self._tenants.get(f"/v1/tenants/{tenant_id}")):
            account = self._account(tenant_id) or {"subscriptions": []}
            held = account["subscriptions"]
            giving = [subscription for subscription in held if subscription["access"] in _GIVES_ACCESS]
            plan = next((f"{s['plan']['plan']}@{s['plan']['version']}" for s in giving or held), None)
            if tenant["status"] == "active":
                return _settled(one, "active", plan)
            if tenant["status"] in _GONE:
                return _settled(one, "refused", plan, tenant["failure"] or f"it is {tenant['status']}")
            if giving:
                continue
            if held:
                return _settled(one, "waiting", plan, f"its subscription is {held[0]['provider_status']}")
            if why is None:
                waits = self._waiting(one.customer)
                if waits is not None and waits["reason"] is None:
                    continue
                # Without the name of the error, as a reconciliation says it.
                why = waits["reason"].rpartition("Error: ")[2] if waits is not None else None
            if why is not None or time.monotonic() > settling:
                return _settled(one, "waiting", plan, why or "it has no subscription there that runs")
        return _settled(one, "waiting", plan, "its environment is being built" if plan else one.why)

    def _waiting(self, customer: str) -> dict[str, Any] | None:
        """What of this customer's is still to be looked at: on its way, or not understood for the reason it names."""
        waiting: list[dict[str, Any]] = self._billing.get("/v1/webhooks/waiting", {"limit": PAGE})
        mine = (one for one in waiting if (one["provider"], one["customer"]) == (self._provider, customer))
        return next(mine, None)

    def _account(self, tenant_id: str) -> dict[str, Any] | None:
        account: dict[str, Any] | None = _or_none(lambda: self._billing.get(f"/v1/tenants/{tenant_id}/account"))
        return account

    def _watched(self, look: Callable[[], T]) -> Iterator[T]:
        """What there is, again and again until the time is over; once at least."""
        yield look()
        while self._left() > 0 and not self._stopping.wait(_POLL_S):
            yield look()

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.0)

    def _each(self, words: str, rows: Sequence[T], work: Callable[[T], Found]) -> list[Found]:
        """The outcomes in the order of the rows, a few at once; when one cannot go on, none is begun any more."""
        with (
            self._out.progress(_bar(0, len(rows), words)) as progress,
            ThreadPoolExecutor(self._at_once) as pool,
        ):
            asked = [pool.submit(work, row) for row in rows]
            try:
                for done, future in enumerate(as_completed(asked), 1):
                    future.result()
                    progress.now(_bar(done, len(rows), words))
            except BaseException:
                self._stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                self._out.say("it stops here; the same command goes on, and does nothing twice")
                raise
        return [future.result() for future in asked]


def _key(provider: str, row: CustomerRow) -> str:
    """The same at every run over this row, whatever else is corrected in it."""
    return "backfill-" + sha256(f"{provider}/{row.customer}/{row.slug}".encode()).hexdigest()


def _found(row: CustomerRow, state: str, **more: str | None) -> Found:
    return Found(line=row.line, customer=row.customer, slug=row.slug, state=state, **more)


def _settled(one: Found, state: str, plan: str | None, why: str | None = None) -> Found:
    return Found(one.line, one.customer, one.slug, state, plan, one.tenant_id, why)


def _or_none(look: Callable[[], Any]) -> Any:
    """What is there; None when nothing is."""
    try:
        return look()
    except CliError as error:
        if error.exit_code is not ExitCode.NOT_FOUND:
            raise
        return None


def _reasons(drifts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Why a tenant's subscription there could not be understood."""
    for drift in drifts:
        for difference in drift["differences"]:
            if difference["field"] == "unread" and drift["tenant_id"]:
                yield drift["tenant_id"], difference["there"]


def _bar(done: int, total: int, words: str) -> str:
    """How far it is, on one line."""
    filled = _BAR * done // max(total, 1)
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {done} of {total} {words}"
