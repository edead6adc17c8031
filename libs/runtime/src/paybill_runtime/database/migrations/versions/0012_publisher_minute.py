"""Adds the usage of publishers in each minute."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_AMOUNTS = ("messages", "size_bytes", "refused", "left_out", "first_sequence", "last_sequence")


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "publisher_minute",
        sa.Column("publisher", sa.Text(), primary_key=True),
        sa.Column("minute", sa.DateTime(timezone=True), primary_key=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _AMOUNTS),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("subject", "reason")),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        schema="chassis",
    )


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_table("publisher_minute", schema="chassis")
