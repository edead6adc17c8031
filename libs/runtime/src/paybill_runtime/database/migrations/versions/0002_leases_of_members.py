"""Ties leases to the heartbeat of their owner; adds indexes in the order of the queues."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.drop_column("lease", "expires_at", schema="chassis")
    op.drop_index("parked_tenant_sequence_idx", table_name="parked", schema="chassis")
    op.create_index("parked_queue_idx", "parked", ["partition", "tenant", "sequence"], schema="chassis")
    op.create_index(
        "effect_waiting_idx", "effect", ["position"], schema="chassis", postgresql_where=sa.text("state = 'pending'")
    )


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_index("effect_waiting_idx", table_name="effect", schema="chassis")
    op.drop_index("parked_queue_idx", table_name="parked", schema="chassis")
    op.create_index("parked_tenant_sequence_idx", "parked", ["tenant", "sequence"], schema="chassis")
    op.add_column(
        "lease",
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema="chassis",
    )
    op.alter_column("lease", "expires_at", server_default=None, schema="chassis")
