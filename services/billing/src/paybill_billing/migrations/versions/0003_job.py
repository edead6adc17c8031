"""Moves the queue of provider objects into the table of all background jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.execute("LOCK TABLE webhook_targets IN ACCESS EXCLUSIVE MODE")
    op.execute(
        "INSERT INTO chassis.job "
        "(kind, key, queue, locks, lease, priority, state, due, attempts, error, requests, detail) "
        "SELECT 'sync/' || provider, target, 'sync/' || provider || '/' || target, ARRAY[target], 'webhooks', 1, "
        "'pending', due, tries, reason, seq, customer FROM webhook_targets"
    )
    op.drop_table("webhook_targets")


def downgrade() -> None:
    """Reverts this revision."""
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
    op.execute(
        "INSERT INTO webhook_targets (provider, target, seq, customer, tries, due, reason) "
        "SELECT replace(kind, 'sync/', ''), key, requests, detail, attempts, due, error FROM chassis.job "
        "WHERE kind LIKE 'sync/%' AND state = 'pending'"
    )
