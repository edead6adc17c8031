"""Adds the row that tests whether the database takes writes."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "write_probe",
        sa.Column("service", sa.Text(), primary_key=True),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        schema="chassis",
    )


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_table("write_probe", schema="chassis")
