"""Creates the table of the policy and the columns of approvals."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COLUMNS = ("approval_id", "approval_status")


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "policy",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="policy_pkey"),
    )
    for column in _COLUMNS:
        expression = f"state->'approval'->>'{column.removeprefix('approval_')}'"
        op.add_column("environments", sa.Column(column, sa.Text(), sa.Computed(expression, persisted=True)))
        op.create_index(f"environments_{column}_idx", "environments", [column])


def downgrade() -> None:
    """Reverts this revision."""
    for column in reversed(_COLUMNS):
        op.drop_index(f"environments_{column}_idx", "environments")
        op.drop_column("environments", column)
    op.drop_table("policy")
