"""Creates the table of cells."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "cells",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="cells_pkey"),
    )


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_table("cells")
