"""Violations of invariants."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "violations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.Column("status", sa.Text(), sa.Computed("state->>'status'", persisted=True)),
        sa.Column("tenant_id", sa.Text(), sa.Computed("state->>'tenant_id'", persisted=True)),
        sa.PrimaryKeyConstraint("id", name="violations_pkey"),
    )
    op.create_index("violations_status_idx", "violations", ["status"])
    op.create_index("violations_tenant_id_idx", "violations", ["tenant_id"])


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_table("violations")
