"""Creates the customers whose objects are dismissed, and the counts of those objects."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "dismissed_customers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="dismissed_customers_pkey"),
    )
    op.create_table(
        "dismissed_objects",
        sa.Column("customer", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("customer", name="dismissed_objects_pkey"),
    )


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_table("dismissed_objects")
    op.drop_table("dismissed_customers")
