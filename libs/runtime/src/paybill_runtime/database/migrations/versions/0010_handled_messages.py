"""Counts the rows of the inbox at the positions, so that a row that was added or deleted is found."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.add_column(
        "position",
        sa.Column("handled", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        schema="chassis",
    )
    op.execute(
        "UPDATE chassis.position SET handled = (SELECT count(*) FROM chassis.inbox) WHERE (stream, partition) = "
        "(SELECT stream, partition FROM chassis.position WHERE stream IN ('EVENTS', 'INTAKE') ORDER BY 1, 2 LIMIT 1)"
    )


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_column("position", "handled", schema="chassis")
