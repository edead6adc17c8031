"""Payments by tenant."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.add_column("payments", sa.Column("tenant_id", sa.Text(), sa.Computed("state->>'tenant_id'", persisted=True)))
    op.create_index("payments_tenant_id_idx", "payments", ["tenant_id"])


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_column("payments", "tenant_id")
