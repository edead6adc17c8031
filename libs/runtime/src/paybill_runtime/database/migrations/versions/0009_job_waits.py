"""Counts how often in a row a job waited for a system that is away."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.add_column(
        "job", sa.Column("waits", sa.Integer(), server_default=sa.text("0"), nullable=False), schema="chassis"
    )
    op.create_index(
        "job_waits_idx",
        "job",
        ["position"],
        schema="chassis",
        postgresql_where=sa.text("state = 'pending' AND (waits > 0 OR attempts > 0)"),
    )


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_index("job_waits_idx", "job", schema="chassis")
    op.drop_column("job", "waits", schema="chassis")
