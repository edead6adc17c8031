"""Rows of accounts, subscriptions, payments, changes and plan migrations."""

from paybill_contracts.errors import ConflictError
from paybill_runtime.decisions.aggregates import Stored, generated
from paybill_runtime.jobs.effects import Refused

from paybill_billing.database import Base
from paybill_billing.subscriptions.domain import accounts, changes, payments, plan_migrations, subscriptions


class CustomerTakenError(ConflictError, Refused):
    """A customer of a provider is one tenant here. Refused: what would have made it two is not tried again."""

    code = "customer_taken"

    def __init__(self, _: str) -> None:
        super().__init__("another tenant here is this customer already")


class AccountRow(Base, table=True):
    """A tenant as a customer. `customer` is `<provider>/<the provider's id>`, null until the account is open."""

    __tablename__ = "accounts"

    customer: str | None = generated("(state->>'provider') || '/' || (state->>'customer')", unique=True)


class SubscriptionRow(Base, table=True):
    """A subscription. due, look: as `Standing` has them, as text that compares in the order of time."""

    __tablename__ = "subscriptions"

    tenant_id: str = generated("state->'subscription'->>'tenant_id'", index=True)
    access: str = generated("state->'subscription'->>'access'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)
    look: str | None = generated("rtrim(state->>'look', 'Z')", index=True)


class PaymentRow(Base, table=True):
    """A payment that failed, went back or is disputed; the id is that of the provider's event, refund or dispute."""

    __tablename__ = "payments"


class ChangeRow(Base, table=True):
    """A change of a subscription. `open_for` is the subscription while it is not over: one at a time."""

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
    """A move of subscribers. `open_from` is the version that they leave, until it is finished: one move at a time."""

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
STATES = (ACCOUNTS, SUBSCRIPTIONS, PAYMENTS, CHANGES, PLAN_MIGRATIONS)
