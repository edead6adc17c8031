"""Creates the billing periods, which decide when usage is reported for an invoice."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "billing_periods",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.Column("due", sa.Text(), sa.Computed("rtrim(state->>'due', 'Z')", persisted=True)),
        sa.PrimaryKeyConstraint("id", name="billing_periods_pkey"),
    )
    op.create_index("billing_periods_due_idx", "billing_periods", ["due"])


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_table("billing_periods")
