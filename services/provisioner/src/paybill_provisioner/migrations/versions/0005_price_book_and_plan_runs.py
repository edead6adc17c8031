"""Creates the tables of the price book and of the durations of plans."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("price_book", "plan_runs")


def upgrade() -> None:
    """Migrates to this revision."""
    for table in _TABLES:
        op.create_table(
            table,
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("revision", sa.BigInteger(), nullable=False),
            sa.Column("state", postgresql.JSONB(), nullable=False),
            sa.PrimaryKeyConstraint("id", name=f"{table}_pkey"),
        )


def downgrade() -> None:
    """Reverts this revision."""
    for table in reversed(_TABLES):
        op.drop_table(table)
