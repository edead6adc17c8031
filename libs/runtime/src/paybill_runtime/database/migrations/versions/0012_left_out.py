"""Adds the counts of messages beyond the limits of their publishers."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "left_out",
        sa.Column("publisher", sa.Text(), primary_key=True),
        sa.Column("minute", sa.DateTime(timezone=True), primary_key=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("amount", "first_sequence", "last_sequence")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("subject", "reason")),
        schema="chassis",
    )


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_table("left_out", schema="chassis")
