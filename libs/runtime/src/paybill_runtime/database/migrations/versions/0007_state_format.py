"""Creates the table of the formats in which the states are stored."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "state_format",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("format", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name="state_format_pkey"),
        schema="chassis",
    )


def downgrade() -> None:
    """Reverts this revision; an earlier version needs its states rebuilt from the log."""
    op.drop_table("state_format", schema="chassis")
