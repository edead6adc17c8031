"""Creates the states of billing and the inbox of webhooks."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATES = {
    "catalogues": {},
    "publishers": {},
    "accounts": {"customer": "(state->>'provider') || '/' || (state->>'customer')"},
    "subscriptions": {
        "tenant_id": "state->'subscription'->>'tenant_id'",
        "access": "state->'subscription'->>'access'",
        "due": "rtrim(state->>'due', 'Z')",
    },
    "entitlements": {},
    "payments": {},
    "meters": {"tenant_id": "state->>'tenant_id'"},
}


def upgrade() -> None:
    for table, generated in STATES.items():
        op.create_table(
            table,
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("revision", sa.BigInteger(), nullable=False),
            sa.Column("state", JSONB(), nullable=False),
            *(sa.Column(name, sa.Text(), sa.Computed(text, persisted=True)) for name, text in generated.items()),
            sa.PrimaryKeyConstraint("id", name=f"{table}_pkey"),
        )
    op.create_unique_constraint("accounts_customer_key", "accounts", ["customer"])
    for table, column in (
        ("subscriptions", "tenant_id"),
        ("subscriptions", "access"),
        ("subscriptions", "due"),
        ("meters", "tenant_id"),
    ):
        op.create_index(f"{table}_{column}_idx", table, [column])
    op.create_table(
        "webhooks",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("api_version", sa.Text()),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("object_type", sa.Text()),
        sa.Column("object_id", sa.Text()),
        sa.Column("customer", sa.Text()),
        sa.Column("target", sa.Text()),
        sa.Column("traceparent", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("provider", "event_id", name="webhooks_pkey"),
    )
    op.create_index(
        "webhooks_waiting_idx", "webhooks", ["provider", "target"], postgresql_where=sa.text("done_at IS NULL")
    )
    op.create_index("webhooks_body_idx", "webhooks", ["received_at"], postgresql_where=sa.text("body IS NOT NULL"))
    op.create_table(
        "webhook_targets",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("customer", sa.Text()),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("provider", "target", name="webhook_targets_pkey"),
    )
    op.create_index("webhook_targets_due_idx", "webhook_targets", ["due"])


def downgrade() -> None:
    for table in ("webhook_targets", "webhooks", *reversed(STATES)):
        op.drop_table(table)
