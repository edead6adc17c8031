"""The context of billing's jobs in memory: their queries, the inbox of webhooks and the sync queue."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

from memory_services import MemoryService
from paybill_billing.providers import sync_queue
from paybill_billing.reconciliation.tables import LAST_START, RUNNING, UNLISTED_SUBSCRIPTIONS
from paybill_billing.statements.jobs import WATCH_S
from paybill_billing.statements.tables import CHECK
from paybill_billing.subscriptions.domain.accounts import Account
from paybill_billing.subscriptions.jobs import subscription_checks
from paybill_billing.subscriptions.tables import (
    ACCOUNT_OF_CUSTOMER,
    ACCOUNTS_OF_CUSTOMERS,
    OTHER_SUBSCRIPTIONS,
    RETURNED_PAYMENTS,
    SUBSCRIPTIONS_OF_TENANT,
)
from paybill_billing.usage.tables import CUTOFFS_DUE, METERS_DUE
from paybill_billing.webhooks.tables import BODIES, DISMISSED_AMONG, TASK
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.job_rows import UNFAILED_REQUESTS, Priority
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.jobs.kinds import AttemptFailedError, ClaimedJob, Kind, RetryAfter

ATTEMPTS = 6
LATER_S = 30 * 86_400
_PLACEHOLDER = re.compile(r"\$(\d+)")


@dataclass
class Message:
    """A stored webhook."""

    delivery: Any
    event: Mapping[str, Any]
    received_at: datetime
    target: str | None
    is_done: bool


@dataclass
class SyncJob:
    """A provider object in the sync queue. is_unknown: it waits for the account of its customer."""

    target: str
    due: datetime
    customer: str | None = None
    attempts: int = 0
    is_unknown: bool = False
    error: str = ""


@dataclass
class BillingContext:
    """The context of billing's jobs: its queries over states in memory, its inbox and its sync queue."""

    memory: MemoryService
    settings: Any
    inbox: dict[str, Message] = field(default_factory=dict)
    syncs: dict[str, SyncJob] = field(default_factory=dict)
    checks: dict[str, datetime] = field(default_factory=dict)
    second_checks: dict[str, datetime] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    _claimed: dict[UUID, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Takes part in the transactions of the service."""
        self.memory.statements = self._execute

    def now(self) -> datetime:
        """Returns the virtual time."""
        return self.memory.clock()

    def open_raw(self, value: bytes) -> bytes:
        """Returns a body, which is stored in plain text here."""
        return value

    async def journeys(self, _keys: Sequence[Key]) -> dict[Key, Any]:
        """Returns no trace."""
        return {}

    async def decide(
        self,
        _origin: Any,
        decide: Callable[[UnitOfWork, DecisionContext], Any],
        *,
        writes: Sequence[Key] = (),
        reads: Sequence[Key] = (),
        extra_statements: Callable[[Statement], None] | None = None,
        **_: Any,
    ) -> Any:
        """Decides and commits."""
        return self.memory.decide(decide, writes, reads, extra_statements)

    def receive(self, delivery: Any, event: Mapping[str, Any]) -> None:
        """Stores a webhook once, and enqueues a sync of its object."""
        if delivery.event_id in self.inbox:
            return
        target = delivery.target
        self.inbox[delivery.event_id] = Message(delivery, event, self.now(), target, is_done=target is None)
        if target is None:
            return
        job = self.syncs.setdefault(target, SyncJob(target, self.now()))
        job.customer = delivery.customer or job.customer
        if not job.is_unknown:
            job.due = self.now()

    async def run(self, kind: Kind, job: SyncJob) -> None:
        """Runs a sync; a failed one waits for its backoff."""
        try:
            again = await kind.run(self.claim(kind.name, job.target, job.attempts))
        except RetryAfter as wait:
            again = max(wait.after_s, 0.1)
        except AttemptFailedError as error:
            job.attempts += 1
            job.error = str(error)
            job.is_unknown = str(error) == sync_queue.NO_ACCOUNT
            # What still fails is a subscription to no plan. Asking each hour, as billing does, takes most of the run.
            again = kind.backoff_s(job.attempts) if job.attempts <= ATTEMPTS else LATER_S
        if again is not None and self.syncs.get(job.target) is job:
            job.due = self.now() + timedelta(seconds=again)

    async def check(self, kind: Kind, customer: str) -> None:
        """Checks the statement of a customer; a difference that stays is checked again."""
        del self.checks[customer]
        again = await kind.run(self.claim(kind.name, customer))
        if again is not None:
            # Asking as often as billing does takes most of the run.
            self.checks[customer] = self.now() + timedelta(seconds=again if again < WATCH_S else LATER_S)

    async def check_second(self, kind: Kind, tenant_id: str) -> None:
        """Checks the subscriptions of a tenant; a second one is checked again."""
        del self.second_checks[tenant_id]
        again = await kind.run(self.claim(kind.name, tenant_id))
        if again is not None:
            self.second_checks[tenant_id] = self.now() + timedelta(seconds=LATER_S)

    def claim(self, kind: str, key: str, attempts: int = 0) -> ClaimedJob:
        id_ = uuid4()
        self._claimed[id_] = key
        nothing = {"detail": None, "deadline": None, "event_id": None, "fact": None}
        return ClaimedJob(
            id_, kind, key, "", (), Priority.INTERACTIVE, leases={}, attempts=attempts, requests=1, waits=0, **nothing
        )

    async def rows(self, statement: Any, values: Mapping[str, Any] | None = None) -> list[Any]:
        """Returns the rows of a query that a sync or a reconciliation uses."""
        if hasattr(statement, "columns_clause_froms"):
            return self._selected(statement)
        return list(self._queries[statement](self, values or {}))

    def _selected(self, statement: Any) -> list[Any]:
        """Returns the states that a query selects by the value of its first column; a history is never too old."""
        table, condition = statement.columns_clause_froms[0].name, statement.whereclause
        first = next(iter(getattr(condition, "clauses", [condition])))
        name, value = first.left.name, first.right.value
        stored = next(each for each in self.memory.stored.values() if each.table.name == table)
        found = [state for state in self.memory.all(stored) if getattr(state, name) == value]
        return [SimpleNamespace(state=stored.document(state)) for state in found]

    def _accounts(self, customers: Sequence[str]) -> Iterator[tuple[str, Account]]:
        for key, (state, _) in self.memory.states.items():
            if key.kind == "account" and state.customer and f"{state.provider}/{state.customer}" in customers:
                yield f"{state.provider}/{state.customer}", state

    def _subscriptions(self, tenant_id: str | None = None) -> Iterator[tuple[Any, int]]:
        for key, (state, revision) in self.memory.states.items():
            if key.kind == "subscription" and tenant_id in {None, state.subscription.tenant_id}:
                yield state, revision

    def _task(self, values: Mapping[str, Any]) -> Iterator[Any]:
        messages = [each for each in self.inbox.values() if each.target == values["target"] and not each.is_done]
        messages.sort(key=lambda each: (each.delivery.created, each.delivery.event_id))
        customers = {f"stripe/{each.delivery.customer}" for each in messages if each.delivery.customer}
        owners = [
            (customer, account.id, str(account.is_gone).lower(), str(bool(account.debt)).lower())
            for customer, account in self._accounts(sorted(customers))
        ]
        yield SimpleNamespace(
            ids=[each.delivery.event_id for each in messages],
            types=[each.delivery.type for each in messages],
            traceparent="",
            customers=sorted(customers),
            owners=owners,
            revision=self.memory.states.get(Key("subscription", values["subscription"]), (None, 0))[1],
        )

    def _bodies(self, values: Mapping[str, Any]) -> Iterator[Any]:
        for id_ in values["ids"]:
            message = self.inbox[id_]
            yield SimpleNamespace(
                event_id=id_,
                created=message.delivery.created,
                object_id=message.delivery.object_id,
                body=json.dumps(message.event).encode(),
            )

    def _account_of_customer(self, values: Mapping[str, Any]) -> Iterator[Any]:
        for _, account in self._accounts([values["customer"]]):
            yield SimpleNamespace(id=account.id, is_gone=account.is_gone, has_debt=bool(account.debt))

    def _accounts_of_customers(self, values: Mapping[str, Any]) -> Iterator[Any]:
        for customer, account in self._accounts(values["customers"]):
            yield SimpleNamespace(customer=customer, id=account.id)

    def _other_subscriptions(self, values: Mapping[str, Any]) -> list[Any]:
        found = self._subscriptions(values["tenant_id"])
        return sorted((state for state, _ in found if state.id != values["id"]), key=lambda state: state.id)

    def _subscriptions_of_tenant(self, values: Mapping[str, Any]) -> Iterator[Any]:
        for state, revision in self._subscriptions(values["tenant_id"]):
            yield SimpleNamespace(id=state.id, revision=revision, access=state.subscription.access)

    def _returned_payments(self, values: Mapping[str, Any]) -> Iterator[Any]:
        for key, (state, _) in self.memory.states.items():
            if key.kind == "payment" and state.tenant_id == values["tenant_id"] and state.kind != "failed":
                yield SimpleNamespace(state=self.memory.stored[key.kind].document(state))

    def _running(self, _: Mapping[str, Any]) -> Iterator[Any]:
        for key, (state, _revision) in self.memory.states.items():
            if key.kind == "reconciliation" and state.status == "running":
                yield SimpleNamespace(state=self.memory.stored[key.kind].document(state))

    def _unlisted(self, values: Mapping[str, Any]) -> list[Any]:
        found = []
        for state, _ in self._subscriptions():
            named, access = state.subscription.provider_subscription, state.subscription.access
            if access != "ended" and state.id > values["after"] and named not in self.listed:
                found.append(SimpleNamespace(id=state.id, provider_subscription=named))
        return sorted(found, key=lambda row: row.id)[: values["limit"]]

    def _unfailed(self, values: Mapping[str, Any]) -> Iterator[Any]:
        for job in self.syncs.values():
            if job.target in values["keys"] and not job.attempts:
                yield SimpleNamespace(key=job.target)

    def _due(self, kind: str) -> list[Any]:
        stored, now = self.memory.stored[kind], self.now()
        states = [state for state in self.memory.all(stored) if state.due is not None and state.due <= now]
        return [SimpleNamespace(id=state.id, state=stored.document(state)) for state in states]

    _queries: Any = field(
        init=False,
        repr=False,
        default_factory=lambda: {
            TASK: BillingContext._task,
            BODIES: BillingContext._bodies,
            DISMISSED_AMONG: lambda _context, _values: (),
            ACCOUNT_OF_CUSTOMER: BillingContext._account_of_customer,
            ACCOUNTS_OF_CUSTOMERS: BillingContext._accounts_of_customers,
            OTHER_SUBSCRIPTIONS: BillingContext._other_subscriptions,
            SUBSCRIPTIONS_OF_TENANT: BillingContext._subscriptions_of_tenant,
            RETURNED_PAYMENTS: BillingContext._returned_payments,
            RUNNING: BillingContext._running,
            LAST_START: lambda _context, _values: [SimpleNamespace(started_at=None)],
            UNLISTED_SUBSCRIPTIONS: BillingContext._unlisted,
            UNFAILED_REQUESTS: BillingContext._unfailed,
            CUTOFFS_DUE: lambda context, _values: context._due("billing-period"),
            METERS_DUE: lambda context, _values: context._due("meter"),
        },
    )

    def _execute(self, statement: Statement) -> None:
        """Does what the statements of billing's jobs do to the inbox and the sync queue.

        The values of a clause are found by its placeholders, in the order of the text.
        """
        for clause in statement.clauses:
            positions = [int(number) - 1 for number in _PLACEHOLDER.findall(clause)]
            values = [statement.values[position] for position in positions]
            change = clause.split(" AS (", 1)[1]
            if change.startswith("INSERT INTO chassis.job"):
                self._enqueue(change, values)
            elif change.startswith("UPDATE webhooks SET done_at"):
                for id_ in values[2]:
                    self.inbox[id_].is_done = True
            elif change.startswith("UPDATE webhooks SET target"):
                for id_ in values[2]:
                    self.inbox[id_].target = values[0]
            elif change.startswith("UPDATE chassis.job SET due = "):
                self._wake(values[2], values[3])
            elif change.startswith("INSERT INTO reconciliation_seen"):
                self.listed |= set(values[1])
            elif change.startswith("DELETE FROM reconciliation_seen"):
                self.listed.clear()
            elif change.startswith("DELETE FROM chassis.job"):
                self.syncs.pop(self._claimed.pop(values[0]))
            elif not change.startswith("UPDATE chassis.job SET attempts = 0"):
                raise AssertionError(f"an unknown statement: {change}")

    def _enqueue(self, change: str, values: list[Any]) -> None:
        if "FROM subscriptions WHERE " in change:
            for state, _ in self._subscriptions():
                named, is_open = state.subscription.provider_subscription, state.subscription.access != "ended"
                if state.id == values[1] or (state.subscription.tenant_id == values[1] and is_open):
                    self.syncs.setdefault(named, SyncJob(named, self.now()))
        elif values[0] == CHECK:
            self.checks[values[1]] = min(values[5], self.checks.get(values[1], values[5]))
        elif values[0] == subscription_checks.CHECK:
            self.second_checks[values[1]] = max(values[5], self.second_checks.get(values[1], values[5]))
        elif values[0] == sync_queue.kind_of("stripe"):
            job = self.syncs.setdefault(values[1], SyncJob(values[1], self.now()))
            job.due, job.attempts, job.is_unknown = self.now(), 0, False

    def _wake(self, customer: str, others: Sequence[str]) -> None:
        """Makes the syncs of a customer due whose account is open now."""
        for job in self.syncs.values():
            if job.customer == customer and job.target not in others:
                job.due, job.attempts, job.is_unknown = self.now(), 0, False
