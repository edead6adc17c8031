"""`paybill provider backfill`: creates tenants for existing customers of a provider, with their subscriptions."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import typer

from paybill_cli import formatting
from paybill_cli.client.http import PAGE, Service, get_or_none
from paybill_cli.client.stack import Stack
from paybill_cli.client.waiting import POLL_S, Deadline
from paybill_cli.commands.providers import Name, completed_reconciliation, drifts_of, provider_path
from paybill_cli.errors import CliError
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import Yes
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_cli.commands.customers_file import CustomerRow

COLUMNS = ("line", "customer", "slug", "state", "plan", "tenant_id", "why")

_SYNC_TIMEOUT_S = 5.0
"""Time for the first sync of an adopted customer, if no reason for its absence is known."""
_ENDED = frozenset({"canceled", "incomplete_expired"})
_GIVES_ACCESS = frozenset({"trialing", "active", "grace"})
_NEVER_ACTIVE = frozenset({"provision_failed", "offboarding", "retained", "cancelled", "purging", "purged"})
_REQUESTED_BEFORE = frozenset({"slug_taken", "idempotency_key_reused"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a row.

    state: `active`, `waiting` or `refused`; in a dry run `ready`, `done` or `refused`, `unsold` when no price of the
    customer sells a plan, `unseen` when the customer has no running subscription. plan: the current or future plan.
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
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, max=32, help="Customers that are processed concurrently.")
    ] = 4,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for all rows.")] = 3600,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the expected outcome of each row.")] = False,
) -> int:
    """Create tenants for existing customers of a provider.

    Each customer keeps its subscription and is not charged again. The command is idempotent: after an interruption,
    run it again with the same file. Exit code 1 when a row was refused or, in a dry run, when a
    tenant would not become active.

    Example: paybill provider backfill stripe --customers customers.csv --dry-run
    """
    from paybill_cli.commands.customers_file import read_customers

    rows = read_customers(customers)
    with Service(stack, "tenant") as tenants, Service(stack, "billing") as billing:
        run = _Backfill(out, tenants, billing, provider, at_once, Deadline(timeout))
        run.check_provider()
        if dry_run:
            outcomes = run.predict(rows)
            out.info("no tenant was created")
        else:
            out.confirm(f"Create tenants for {len(rows)} customers of {provider}? They keep their plans.", yes=yes)
            outcomes = run.execute(rows)
    out.rows("backfill.list", [asdict(one) for one in outcomes], COLUMNS)
    counts = Counter(one.state for one in outcomes)
    out.info(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    failing = {"refused", "unsold", "unseen"}
    return int(ExitCode.FAILED if failing & counts.keys() else ExitCode.OK)


class _Backfill:
    """One run of the command."""

    def __init__(
        self, out: Output, tenants: Service, billing: Service, provider: str, at_once: int, deadline: Deadline
    ) -> None:
        self._out = out
        self._tenants = tenants
        self._billing = billing
        self._provider = provider
        self._at_once = at_once
        self._deadline = deadline
        self._stopping = threading.Event()

    def check_provider(self) -> None:
        """Raises CliError unless the provider supports adoption."""
        provider_path(self._provider)
        found = {one["name"]: set(one["capabilities"]) for one in self._billing.get("/v1/providers")}
        if {"adopts", "lists"} <= found.get(self._provider, set()):
            return
        able = [name for name, capabilities in found.items() if {"adopts", "lists"} <= capabilities]
        raise CliError(
            "cannot_adopt",
            f"customers of {self._provider} cannot be adopted here",
            why=f"providers that support it: {', '.join(able) or 'none'}",
            next="paybill provider list",
            exit_code=ExitCode.NOT_FOUND if self._provider not in found else ExitCode.CONFLICT,
        )

    def predict(self, rows: "Sequence[CustomerRow]") -> list[Outcome]:
        """Predicts the outcome of each row from the provider's list and our tables."""
        run = self._reconcile(repair=False)
        subscriptions: dict[str, list[dict[str, Any]]] = {}
        for drift in drifts_of(self._billing, run=run["id"]):
            if drift["kind"] == "unknown_customer" and drift["provider_status"] not in _ENDED:
                subscriptions.setdefault(drift["customer"], []).append(drift)
        return self._map("checked", rows, lambda row: self._predict(row, subscriptions.get(row.customer, [])))

    def execute(self, rows: "Sequence[CustomerRow]") -> list[Outcome]:
        """Adopts all customers, reconciles with the provider, and waits for the status of each tenant."""
        adopted = self._map("adopted", rows, self._adopt)
        run = self._reconcile(repair=True)
        reasons = dict(_reasons(drifts_of(self._billing, run=run["id"])))
        sync = Deadline(_SYNC_TIMEOUT_S)
        return self._map("settled", adopted, lambda one: self._settle(one, reasons.get(one.tenant_id or ""), sync))

    def _reconcile(self, *, repair: bool) -> dict[str, Any]:
        timeout_s = self._deadline.left_s
        return completed_reconciliation(self._out, self._billing, self._provider, repair=repair, timeout_s=timeout_s)

    def _predict(self, row: "CustomerRow", subscriptions: Sequence[Mapping[str, Any]]) -> Outcome:
        try:
            tenant = self._requested(row, dry_run=True)
        except CliError as error:
            return _refused(row, error)
        customer = quote(row.customer, safe="")
        owner = get_or_none(self._billing, f"{provider_path(self._provider)}/customers/{customer}")
        if tenant is not None and tenant["status"] in _NEVER_ACTIVE:
            return _outcome(
                row, "refused", tenant_id=tenant["id"], why=tenant["failure"] or f"it is {tenant['status']}"
            )
        if owner is not None and tenant is not None and owner["tenant_id"] == tenant["id"]:
            return _outcome(row, "done", tenant_id=tenant["id"], why=f"it is {tenant['status']}")
        if owner is not None:
            return _outcome(row, "refused", why=f"the customer is the tenant {owner['tenant_id']} already")
        if tenant is not None:
            return self._predict_existing(row, tenant)
        if not subscriptions:
            return _outcome(row, "unseen", why="the customer has no running subscription at the provider")
        sold = next((f"{one['plan']}@{one['version']}" for one in subscriptions if one["plan"]), None)
        if sold is None:
            return _outcome(row, "unsold", why="no price of it sells a plan; add it to provider_prices of one")
        return _outcome(row, "ready", plan=sold)

    def _predict_existing(self, row: "CustomerRow", tenant: Mapping[str, Any]) -> Outcome:
        account = self._account(tenant["id"])
        if account is None or account["adopts"] != row.customer:
            return _outcome(row, "refused", tenant_id=tenant["id"], why=f"the slug {row.slug} is another tenant's")
        if account["failure"]:
            return _outcome(row, "refused", tenant_id=tenant["id"], why=account["failure"])
        return _outcome(row, "ready", tenant_id=tenant["id"], why="it was requested before")

    def _adopt(self, row: "CustomerRow") -> Outcome:
        """Requests the tenant, and waits until its account is open. A repeated request finds the existing tenant."""
        try:
            tenant = self._requested(row)
        except CliError as error:
            return _refused(row, error)
        for account in self._poll(lambda: self._account(tenant["id"])):
            if account is None:
                continue
            if account["adopts"] != row.customer or account["provider"] != self._provider:
                return _outcome(row, "refused", tenant_id=tenant["id"], why=f"the slug {row.slug} is another tenant's")
            if account["status"] == "failed":
                return _outcome(row, "refused", tenant_id=tenant["id"], why=account["failure"])
            if account["status"] == "open":
                break
        return _outcome(row, "waiting", tenant_id=tenant["id"], why="its account is being opened")

    def _requested(self, row: "CustomerRow", *, dry_run: bool = False) -> Any:
        """Requests the tenant of a row; returns it, or the one that was requested before.

        A dry run creates none, and returns None in its place.
        """
        body = {name: getattr(row, name) for name in ("slug", "name", "plan", "region", "customer")}
        body |= {"contact_email": row.email, "payment": self._provider}
        try:
            found = self._tenants.post("/v1/tenants", body, key=_key(self._provider, row), dry_run=dry_run)
        except CliError as error:
            if error.code not in _REQUESTED_BEFORE:
                raise
            return self._tenants.get(f"/v1/tenants/{row.slug}")
        if dry_run:
            return self._tenants.get(f"/v1/tenants/{found['result']['id']}") if found["already_executed"] else None
        return found

    def _settle(self, one: Outcome, why: str | None, sync: Deadline) -> Outcome:
        """Returns the outcome once the status of the tenant does not change by itself any more."""
        if one.state == "refused" or one.tenant_id is None:
            return one
        id_, plan = one.tenant_id, None
        for tenant in self._poll(lambda: self._tenants.get(f"/v1/tenants/{id_}")):
            account = self._account(id_) or {"subscriptions": []}
            subscriptions = account["subscriptions"]
            entitling = [each for each in subscriptions if each["access"] in _GIVES_ACCESS]
            plan = next((formatting.plan(each["plan"]) for each in entitling or subscriptions), None)
            if tenant["status"] == "active":
                return _settled(one, "active", plan)
            if tenant["status"] in _NEVER_ACTIVE:
                return _settled(one, "refused", plan, tenant["failure"] or f"it is {tenant['status']}")
            if entitling:
                continue
            if subscriptions:
                return _settled(one, "waiting", plan, f"its subscription is {subscriptions[0]['provider_status']}")
            if why is None:
                pending = self._pending_sync(one.customer)
                if pending is not None and pending["reason"] is None:
                    continue
                # Without the name of the exception, as in a reconciliation.
                why = pending["reason"].rpartition("Error: ")[2] if pending is not None else None
            if why is not None or not sync.left_s:
                return _settled(one, "waiting", plan, why or "it has no running subscription at the provider")
        return _settled(one, "waiting", plan, "its environment is being built" if plan else one.why)

    def _pending_sync(self, customer: str) -> dict[str, Any] | None:
        """Returns a pending sync of this customer's objects; its reason is None unless the sync failed."""
        waiting: list[dict[str, Any]] = self._billing.get("/v1/webhooks/waiting", {"limit": PAGE})
        of_customer = (one for one in waiting if (one["provider"], one["customer"]) == (self._provider, customer))
        return next(of_customer, None)

    def _account(self, tenant: str) -> dict[str, Any] | None:
        account: dict[str, Any] | None = get_or_none(self._billing, f"/v1/tenants/{tenant}/account")
        return account

    def _poll(self, fetch: Callable[[], T]) -> Iterator[T]:
        """Yields the fetched object until the deadline; once at least."""
        yield fetch()
        while self._deadline.left_s and not self._stopping.wait(POLL_S):
            yield fetch()

    def _map(self, done_text: str, rows: Sequence[T], work: Callable[[T], Outcome]) -> list[Outcome]:
        """Returns the outcomes in the order of the rows; the first exception stops the rest."""

        def text(done: int) -> str:
            return formatting.bar(done, len(rows), f"{done} of {len(rows)} {done_text}")

        with self._out.progress(text(0)) as progress, ThreadPoolExecutor(self._at_once) as pool:
            futures = [pool.submit(work, row) for row in rows]
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    future.result()
                    progress.update(text(done))
            except BaseException:
                self._stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                self._out.info("stopped; the same command continues, and repeats nothing")
                raise
        return [future.result() for future in futures]


def _key(provider: str, row: "CustomerRow") -> str:
    """Returns the idempotency key of a row; corrections of its other columns do not change it."""
    return "backfill-" + sha256(f"{provider}/{row.customer}/{row.slug}".encode()).hexdigest()


def _outcome(row: "CustomerRow", state: str, **more: str | None) -> Outcome:
    return Outcome(line=row.line, customer=row.customer, slug=row.slug, state=state, **more)


def _refused(row: "CustomerRow", error: CliError) -> Outcome:
    """Returns the outcome of a refused request. Raises the error when it is about more than this row."""
    if error.exit_code not in {ExitCode.USAGE, ExitCode.CONFLICT}:
        raise error
    return _outcome(row, "refused", why=error.message)


def _settled(one: Outcome, state: str, plan: str | None, why: str | None = None) -> Outcome:
    return Outcome(one.line, one.customer, one.slug, state, plan, one.tenant_id, why)


def _reasons(drifts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yields tenants whose subscription could not be synced, with the reason."""
    for drift in drifts:
        for difference in drift["differences"]:
            if difference["field"] == "unread" and drift["tenant_id"]:
                yield drift["tenant_id"], difference["there"]
