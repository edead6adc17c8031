"""Adds the columns for the timer of approvals and for environments that no cell has a place for."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_COLUMNS = {
    "approval_expires": (
        "CASE WHEN state->'approval'->>'status' IN ('requested', 'granted') "
        "THEN rtrim(state->'approval'->>'expires_at', 'Z') END"
    ),
    "refusal_code": "state->'refusal'->>'code'",
}


def upgrade() -> None:
    """Migrates to this revision."""
    for column, expression in _COLUMNS.items():
        op.add_column("environments", sa.Column(column, sa.Text(), sa.Computed(expression, persisted=True)))
        op.create_index(f"environments_{column}_idx", "environments", [column])


def downgrade() -> None:
    """Reverts this revision."""
    for column in reversed(_COLUMNS):
        op.drop_index(f"environments_{column}_idx", "environments")
        op.drop_column("environments", column)
