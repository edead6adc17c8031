"""The states of this service, a JSON document each with columns to look them up by, and the inbox of webhooks."""

from datetime import datetime

from paybill_contracts.errors import ConflictError
from paybill_runtime.database.tables import NAMING
from paybill_runtime.decisions.aggregates import StateRow, Stored, generated
from paybill_runtime.decisions.store import Statement
from paybill_runtime.jobs.effects import Refused
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.orm import registry
from sqlmodel import col

from paybill_billing.catalogue.domain import catalogue, tiers
from paybill_billing.entitlements.domain import entitlements
from paybill_billing.licences.domain import licence_keys, licences, revocations
from paybill_billing.providers import domain as providers
from paybill_billing.providers.manual.domain import contracts
from paybill_billing.reconciliation import domain as reconciliation
from paybill_billing.subscriptions.domain import accounts, changes, payments, plan_migrations, subscriptions
from paybill_billing.usage.domain import closed_windows, distinct_counts, publishers, usage


class CustomerTakenError(ConflictError, Refused):
    """A customer of a provider is one tenant here. Refused: what would have made it two is not tried again."""

    code = "customer_taken"

    def __init__(self, _: str) -> None:
        super().__init__("another tenant here is this customer already")


class Base(StateRow, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """This service's rows, in a MetaData of their own: two services can be loaded in one process."""


class CatalogueRow(Base, table=True):
    """What we sell: one row."""

    __tablename__ = "catalogues"


class PublishersRow(Base, table=True):
    """Who may report usage: one row."""

    __tablename__ = "publishers"


class ProvidersRow(Base, table=True):
    """Which billing providers there are: one row."""

    __tablename__ = "providers"


class ContractRow(Base, table=True):
    """What a tenant has with the provider `manual`. `due` is the next due date, or the end of the period."""

    __tablename__ = "contracts"

    status: str | None = generated("state->'contract'->>'status'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


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


class TiersRow(Base, table=True):
    """What environments can be built of: one row."""

    __tablename__ = "tiers"


class EntitlementsRow(Base, table=True):
    """What a tenant may use; the id is the tenant's. `due` is when an override or a grant begins or ends."""

    __tablename__ = "entitlements"

    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


class PaymentRow(Base, table=True):
    """A payment that failed, went back or is disputed; the id is that of the provider's event, refund or dispute."""

    __tablename__ = "payments"


class MeterRow(Base, table=True):
    """All that a tenant used of one thing. `due` is when the next of its windows closes."""

    __tablename__ = "meters"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


class DistinctSetRow(Base, table=True):
    """Which different things were used in the open windows of a meter: one of 256 shards."""

    __tablename__ = "usage_members"


class ClosedWindowRow(Base, table=True):
    """A window of usage that is over."""

    __tablename__ = "usage_windows"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    status: str = generated("state->>'status'", index=True)


class LicenceRow(Base, table=True):
    """A licence. `kid` signed what is in force; `due` is when it is renewed."""

    __tablename__ = "licences"

    tenant_id: str = generated("state->>'tenant_id'", index=True)
    status: str = generated("state->>'status'")
    kid: str | None = generated("state->'claims'->>'kid'")
    due: str | None = generated("rtrim(state->>'due', 'Z')", index=True)


class KeyringRow(Base, table=True):
    """The keys that sign licences: one row. `due` is when one retires."""

    __tablename__ = "licence_keys"

    due: str | None = generated("rtrim(state->>'due', 'Z')")


class RevocationListRow(Base, table=True):
    """The list of revoked licences: one row. `due` is when there has to be another."""

    __tablename__ = "licence_revocations"

    due: str | None = generated("rtrim(state->>'due', 'Z')")


class ReconciliationRow(Base, table=True):
    """A comparison of all subscriptions of a provider with ours."""

    __tablename__ = "reconciliations"

    provider: str = generated("state->>'provider'", index=True)
    status: str = generated("state->>'status'")


class DriftRow(Base, table=True):
    """A difference that a comparison found."""

    __tablename__ = "drifts"

    run: str | None = generated("state->>'run_id'", index=True)
    tenant_id: str | None = generated("state->>'tenant_id'")


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


Index(
    "reconciliations_running_key",
    col(ReconciliationRow.provider),
    unique=True,
    postgresql_where=col(ReconciliationRow.status) == "running",
)

CATALOGUES = Stored("catalogue", CatalogueRow, catalogue.Catalogue, catalogue.evolve)
TIERS = Stored("tiers", TiersRow, tiers.Tiers, tiers.evolve)
PUBLISHERS = Stored("publishers", PublishersRow, publishers.Publishers, publishers.evolve)
PROVIDERS = Stored("providers", ProvidersRow, providers.Choice, providers.evolve)
CONTRACTS = Stored("contract", ContractRow, contracts.ManualContract, contracts.evolve)
ACCOUNTS = Stored(
    "account",
    AccountRow,
    accounts.Account,
    accounts.evolve,
    conflicts={"accounts_customer_key": CustomerTakenError},
)
SUBSCRIPTIONS = Stored("subscription", SubscriptionRow, subscriptions.SubscriptionState, subscriptions.evolve)
ENTITLEMENTS = Stored("entitlements", EntitlementsRow, entitlements.Entitlements, entitlements.evolve)
PAYMENTS = Stored("payment", PaymentRow, payments.Payment, payments.evolve)
RUNS = Stored(
    "reconciliation",
    ReconciliationRow,
    reconciliation.Run,
    reconciliation.evolve,
    conflicts={"reconciliations_running_key": reconciliation.RunningAlreadyError},
)
DRIFTS = Stored("drift", DriftRow, reconciliation.Drift, reconciliation.found)
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
LICENCES = Stored("licence", LicenceRow, licences.Licence, licences.evolve)
KEYRINGS = Stored("licence-keys", KeyringRow, licence_keys.Keyring, licence_keys.evolve)
REVOCATION_LISTS = Stored("licence-revocations", RevocationListRow, revocations.RevocationList, revocations.evolve)
METERS = Stored("meter", MeterRow, usage.Meter, usage.evolve)
DISTINCT_SETS = Stored("usage-members", DistinctSetRow, distinct_counts.DistinctSet, distinct_counts.evolve)
CLOSED_WINDOWS = Stored("usage-window", ClosedWindowRow, closed_windows.ClosedWindow, closed_windows.evolve)
STATES = (
    CATALOGUES,
    TIERS,
    PUBLISHERS,
    PROVIDERS,
    CONTRACTS,
    ACCOUNTS,
    SUBSCRIPTIONS,
    ENTITLEMENTS,
    PAYMENTS,
    METERS,
    DISTINCT_SETS,
    CLOSED_WINDOWS,
    RUNS,
    DRIFTS,
    CHANGES,
    PLAN_MIGRATIONS,
    LICENCES,
    KEYRINGS,
    REVOCATION_LISTS,
)

WEBHOOKS = Table(
    "webhooks",
    Base.metadata,
    Column("provider", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("api_version", Text),
    Column("livemode", Boolean, nullable=False),
    Column("object_type", Text),
    Column("object_id", Text),
    Column("customer", Text),
    Column("target", Text),
    Column("traceparent", Text, nullable=False),
    Column("body", LargeBinary),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("done_at", DateTime(timezone=True)),
    Column("quarantine", Text),
)
"""Every verified message of a provider, once. `target` is the subscription, or `<kind>/<id>` of another object, that is
looked at because of it, null for none; `body` is sealed, and gone after 30 days; `quarantine` is why nothing is done.
"""
Index("webhooks_waiting_idx", WEBHOOKS.c.provider, WEBHOOKS.c.target, postgresql_where=WEBHOOKS.c.done_at.is_(None))
Index("webhooks_body_idx", WEBHOOKS.c.received_at, postgresql_where=WEBHOOKS.c.body.is_not(None))

WEBHOOK_TARGETS = Table(
    "webhook_targets",
    Base.metadata,
    Column("provider", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("customer", Text),
    Column("tries", Integer, nullable=False),
    Column("due", DateTime(timezone=True), nullable=False),
    Column("reason", Text),
)
"""Subscriptions and other objects to be looked at again. `seq` grows with every message, so that whoever has looked can
tell whether more came meanwhile; `reason` says why it waits."""
Index("webhook_targets_due_idx", WEBHOOK_TARGETS.c.due)

RECONCILIATION_SEEN = Table(
    "reconciliation_seen",
    Base.metadata,
    Column("run", Text, primary_key=True),
    Column("target", Text, primary_key=True),
)
"""What a provider's list showed to a run that is not over; ours that are not here are looked up one by one."""

NO_ACCOUNT = "no account has this customer"
"""The `reason` of a target that waits for its customer's account to be opened."""


def look_again(provider: str, target: str, now: datetime, statement: Statement) -> None:
    """Have a subscription looked at, as soon as what the rest of the statement writes is there."""
    row = ", ".join(statement.value(value) for value in (provider, target, now))
    statement.do(
        f"INSERT INTO webhook_targets AS t (provider, target, due, seq, tries) VALUES ({row}, 1, 0) "  # noqa: S608
        "ON CONFLICT (provider, target) DO UPDATE SET seq = t.seq + 1, tries = 0, due = excluded.due, reason = NULL"
    )
