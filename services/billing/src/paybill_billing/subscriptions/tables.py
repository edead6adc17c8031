"""Rows of accounts, subscriptions, payments, changes and plan migrations."""

from datetime import datetime
from typing import Any

from paybill_contracts.errors import ConflictError
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.aggregates import Stored, generated
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import JobRequest, Priority, request_job
from paybill_runtime.http.listing import load_state, state_column
from paybill_runtime.jobs.effects import Refused
from sqlalchemy import Select, select, text
from sqlmodel import col

from paybill_billing.database import Base
from paybill_billing.providers.sync_queue import LEASE, enqueue_overdue
from paybill_billing.subscriptions.domain import accounts, changes, payments, plan_migrations, subscriptions, trials
from paybill_billing.subscriptions.domain.accounts import Account, UnknownTenantError


class CustomerTakenError(ConflictError, Refused):
    """Raised when a second tenant would be the same provider customer. It is Refused, so that no effect retries it."""

    code = "customer_taken"

    def __init__(self, _: str) -> None:
        super().__init__("this customer already belongs to another tenant")


class AccountRow(Base, table=True):
    """An account. `customer` is `<provider>/<the provider's id>`, null until the account is open."""

    __tablename__ = "accounts"

    customer: str | None = generated("(state->>'provider') || '/' || (state->>'customer')", unique=True)


class TrialRow(Base, table=True):
    """The trial of a plan for one customer."""

    __tablename__ = "trials"


class SubscriptionRow(Base, table=True):
    """A subscription. due, look: the next timer and the next provider sync, as text that sorts by time."""

    __tablename__ = "subscriptions"

    tenant_id: str = generated("state->'subscription'->>'tenant_id'", index=True)
    access: str = generated("state->'subscription'->>'access'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)
    look: str | None = generated("rtrim(state->>'look', 'Z')", index=True)


class PaymentRow(Base, table=True):
    """A failed, refunded or disputed payment; the id is that of the provider's event, refund or dispute."""

    __tablename__ = "payments"

    tenant_id: str = generated("state->>'tenant_id'", index=True)


class ChangeRow(Base, table=True):
    """A change. `open_for` is its subscription while the change is open: a subscription has one open change."""

    __tablename__ = "changes"

    subscription_id: str = generated("state->>'subscription_id'", index=True)
    status: str = generated("state->>'status'")
    open_for: str | None = generated(
        "CASE WHEN state->>'status' IN ('requested', 'quoted', 'confirmed') THEN state->>'subscription_id' END",
        unique=True,
    )
    move_id: str | None = generated("state->>'move_id'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


class PlanMigrationRow(Base, table=True):
    """A plan migration. `open_from` is the old version until the end: a version has one open migration."""

    __tablename__ = "moves"

    open_from: str | None = generated(
        "CASE WHEN state->>'status' <> 'finished' THEN (state->>'from_plan') || '@' || (state->>'from_version') END",
        unique=True,
    )


ACCOUNTS = Stored(
    "account",
    AccountRow,
    accounts.Account,
    accounts.evolve,
    conflicts={"accounts_customer_key": CustomerTakenError},
)
TRIALS = Stored("trial", TrialRow, trials.Trial, trials.evolve)
SUBSCRIPTIONS = Stored("subscription", SubscriptionRow, subscriptions.SubscriptionState, subscriptions.evolve)
PAYMENTS = Stored("payment", PaymentRow, payments.Payment, payments.evolve)
CHANGES = Stored(
    "change",
    ChangeRow,
    changes.Change,
    changes.evolve,
    conflicts={"changes_open_for_key": changes.ChangeOpenError},
)
PLAN_MIGRATIONS = Stored(
    "move",
    PlanMigrationRow,
    plan_migrations.PlanMigration,
    plan_migrations.evolve,
    conflicts={"moves_open_from_key": plan_migrations.PlanMigrationRunsError},
)
STATES = (ACCOUNTS, TRIALS, SUBSCRIPTIONS, PAYMENTS, CHANGES, PLAN_MIGRATIONS)

LAST_FAILURE = text(
    "SELECT state::text AS state FROM payments WHERE tenant_id = :tenant_id AND state->>'kind' = 'failed' "
    "ORDER BY (state->>'attempt')::bigint DESC, id DESC LIMIT 1"
)
RETURNED_PAYMENTS = text(
    "SELECT state::text AS state FROM payments WHERE tenant_id = :tenant_id AND state->>'kind' <> 'failed'"
)
IS_GONE = "(state->>'leaving' = 'true' OR state->>'closed' = 'true')"
"""Condition of the accounts whose tenants left, or are leaving."""
HAS_DEBT = "coalesce(jsonb_array_length(state->'debt'), 0) > 0"
"""Condition of the accounts whose customers owe something."""
_FLAGS = f"{IS_GONE} AS is_gone, {HAS_DEBT} AS has_debt"
OWNERS = (
    f"ARRAY(SELECT ARRAY[customer, id, ({IS_GONE})::text, ({HAS_DEBT})::text] "  # noqa: S608  # our own text
    "FROM accounts WHERE customer = ANY(w.customers))"
)
"""SQL of the accounts whose customers are in the array `w.customers`, with their flags as text."""
ACCOUNT_OF_CUSTOMER = text(f"SELECT id, {_FLAGS} FROM accounts WHERE customer = :customer")  # noqa: S608  # our own text
ACCOUNTS_OF_CUSTOMERS = text("SELECT customer, id FROM accounts WHERE customer = ANY(:customers)")
SUBSCRIPTION_COUNTS = text("SELECT access, count(*) FROM subscriptions GROUP BY access")
UNPAID_COUNTS = text(
    "SELECT access, count(*) FROM subscriptions WHERE state->'subscription'->>'unpaid_invoice' IS NOT NULL "
    "AND access <> 'ended' GROUP BY access"
)
OTHER_SUBSCRIPTIONS = text("SELECT id FROM subscriptions WHERE tenant_id = :tenant_id AND id <> :id ORDER BY id")
SUBSCRIPTIONS_OF_TENANT = text("SELECT id, revision, access FROM subscriptions WHERE tenant_id = :tenant_id")
_SUBSCRIBED_TO_VERSION = (
    "state->'subscription'->'plan'->>'plan' = :plan AND state->'subscription'->'plan'->>'version' = :version "
    "AND access NOT IN ('ended', 'pending')"
)
"""Condition of the subscriptions that pin a plan version."""
_TARGETS = (
    "SELECT state->'subscription'->>'provider' AS provider, "
    "state->'subscription'->>'provider_subscription' AS target FROM subscriptions"
)
"""Query for the sync targets of subscriptions."""
PLAN_MIGRATION_JOB = "plan_migrations"
RUNNING_MIGRATIONS = text("SELECT id, state::text AS state FROM moves WHERE open_from IS NOT NULL ORDER BY id")
CHANGE_COUNTS = text(
    "SELECT count(*) AS requested, count(*) FILTER (WHERE status = 'applied') AS applied, "
    "count(*) FILTER (WHERE open_for IS NULL AND status <> 'applied') AS refused "
    "FROM changes WHERE move_id = :migration"
)
NEXT_SUBSCRIBERS = text(
    "SELECT s.id, o.id AS open FROM subscriptions AS s LEFT JOIN changes AS o ON o.open_for = s.id "  # noqa: S608
    f"WHERE s.id > :after AND {_SUBSCRIBED_TO_VERSION.replace('state', 's.state')} ORDER BY s.id LIMIT :limit"
)
REMAINING_SUBSCRIBERS = text(f"SELECT count(*) AS remaining FROM subscriptions WHERE {_SUBSCRIBED_TO_VERSION}")  # noqa: S608  # our own text
SUBSCRIBER_GROUPS = text(
    "SELECT access, state->'subscription'->'price'->>'currency' AS currency, "  # noqa: S608  # from our code
    "state->'subscription'->>'interval' AS interval, count(*) AS subscriptions, "
    "sum((state->'subscription'->>'quantity')::bigint)::bigint AS quantity, "
    "sum((state->'subscription'->'price'->>'minor')::bigint * (state->'subscription'->>'quantity')::bigint)::bigint "
    f"AS paid FROM subscriptions WHERE {_SUBSCRIBED_TO_VERSION} GROUP BY 1, 2, 3 ORDER BY 2, 3, 1"
)
MIGRATION_COUNTS = text(
    "SELECT m.state::text AS state, count(c.id) AS requested, "
    "count(c.id) FILTER (WHERE c.status = 'applied') AS applied, "
    "count(c.id) FILTER (WHERE c.open_for IS NULL AND c.status <> 'applied') AS refused FROM moves AS m "
    "LEFT JOIN changes AS c ON c.move_id = m.id WHERE :id = '' OR m.id = :id GROUP BY m.id ORDER BY m.id LIMIT :limit"
)


def enqueue_overdue_sync(id_: str, now: datetime, statement: Statement) -> None:
    """Queues the sync of a subscription that should have changed, but no webhook came; its state stays until then."""
    enqueue_overdue(f"{_TARGETS} WHERE id = {statement.value(id_)}", now, statement)


def enqueue_syncs_of_tenant(tenant_id: str, now: datetime, statement: Statement) -> None:
    """Queues the syncs of a tenant's subscriptions that have not ended."""
    tenant = statement.value(tenant_id)
    enqueue_overdue(f"{_TARGETS} WHERE tenant_id = {tenant} AND access <> 'ended'", now, statement)


def request_plan_migrations(now: datetime, statement: Statement) -> None:
    """Requests the job that runs plan migrations."""
    request_job(statement, JobRequest(PLAN_MIGRATION_JOB, PLAN_MIGRATION_JOB, LEASE, now, priority=Priority.BULK))


async def account_of(context: ServiceContext, tenant_id: str) -> Account:
    """Returns the account of a tenant. Raises UnknownTenantError."""
    account = await load_state(context, ACCOUNTS, tenant_id)
    if account is None:
        raise UnknownTenantError(f"there is no account of {tenant_id}")
    return account


def account_of_customer(provider: str, customer: str) -> Select[Any]:
    """Returns the query for the state of a customer's account."""
    return select(state_column(ACCOUNTS)).where(col(AccountRow.customer) == f"{provider}/{customer}")


def subscriptions_of(tenant_id: str, limit: int) -> Select[Any]:
    """Returns the query for the states of a tenant's subscriptions."""
    rows = select(state_column(SUBSCRIPTIONS)).where(col(SubscriptionRow.tenant_id) == tenant_id)
    return rows.order_by(col(SubscriptionRow.id)).limit(limit)


def open_change_of(subscription_id: str) -> Select[Any]:
    """Returns the query for the id of a subscription's open change."""
    return select(col(ChangeRow.id)).where(col(ChangeRow.open_for) == subscription_id)


def subscription_of_change(change_id: str) -> Select[Any]:
    """Returns the query for the subscription of a change."""
    return select(col(ChangeRow.subscription_id)).where(col(ChangeRow.id) == change_id)
