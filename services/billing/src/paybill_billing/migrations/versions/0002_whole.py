"""Creates the states of reconciliation, changes, usage and licences, and the sync queue."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATES = {
    "tiers": {},
    "providers": {},
    "contracts": {"status": "state->'contract'->>'status'", "due": "rtrim(state->>'due', 'Z')"},
    "reconciliations": {"provider": "state->>'provider'", "status": "state->>'status'"},
    "licences": {
        "tenant_id": "state->>'tenant_id'",
        "status": "state->>'status'",
        "kid": "state->'claims'->>'kid'",
        "due": "rtrim(state->>'due', 'Z')",
    },
    "licence_keys": {"due": "rtrim(state->>'due', 'Z')"},
    "licence_revocations": {"due": "rtrim(state->>'due', 'Z')"},
    "usage_members": {},
    "usage_windows": {"tenant_id": "state->>'tenant_id'", "status": "state->>'status'"},
    "changes": {
        "subscription_id": "state->>'subscription_id'",
        "status": "state->>'status'",
        "open_for": "CASE WHEN state->>'status' IN ('requested', 'quoted', 'confirmed') "
        "THEN state->>'subscription_id' END",
        "move_id": "state->>'move_id'",
        "due": "rtrim(state->>'due', 'Z')",
    },
    "moves": {
        "open_from": "CASE WHEN state->>'status' <> 'finished' "
        "THEN (state->>'from_plan') || '@' || (state->>'from_version') END",
    },
    "drifts": {"run": "state->>'run_id'", "tenant_id": "state->>'tenant_id'"},
}
INDEXES = (
    ("usage_windows", "tenant_id"),
    ("usage_windows", "status"),
    ("reconciliations", "provider"),
    ("drifts", "run"),
    ("changes", "subscription_id"),
    ("changes", "move_id"),
    ("changes", "due"),
    ("contracts", "status"),
    ("contracts", "due"),
    ("licences", "tenant_id"),
    ("licences", "due"),
)


def upgrade() -> None:
    op.add_column(
        "subscriptions", sa.Column("look", sa.Text(), sa.Computed("rtrim(state->>'look', 'Z')", persisted=True))
    )
    op.create_index("subscriptions_look_idx", "subscriptions", ["look"])
    op.add_column("webhooks", sa.Column("quarantine", sa.Text()))
    op.add_column("entitlements", sa.Column("due", sa.Text(), sa.Computed("rtrim(state->>'due', 'Z')", persisted=True)))
    op.create_index("entitlements_due_idx", "entitlements", ["due"])
    op.add_column("meters", sa.Column("due", sa.Text(), sa.Computed("rtrim(state->>'due', 'Z')", persisted=True)))
    op.create_index("meters_due_idx", "meters", ["due"])
    for table, generated in STATES.items():
        op.create_table(
            table,
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("revision", sa.BigInteger(), nullable=False),
            sa.Column("state", JSONB(), nullable=False),
            *(sa.Column(name, sa.Text(), sa.Computed(text, persisted=True)) for name, text in generated.items()),
            sa.PrimaryKeyConstraint("id", name=f"{table}_pkey"),
        )
    for table, column in INDEXES:
        op.create_index(f"{table}_{column}_idx", table, [column])
    op.create_unique_constraint("changes_open_for_key", "changes", ["open_for"])
    op.create_unique_constraint("moves_open_from_key", "moves", ["open_from"])
    op.create_index(
        "reconciliations_running_key",
        "reconciliations",
        ["provider"],
        unique=True,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "reconciliation_seen",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run", "target", name="reconciliation_seen_pkey"),
    )


def downgrade() -> None:
    for table in ("reconciliation_seen", *reversed(STATES)):
        op.drop_table(table)
    op.drop_column("meters", "due")
    op.drop_column("entitlements", "due")
    op.drop_column("webhooks", "quarantine")
    op.drop_column("subscriptions", "look")
