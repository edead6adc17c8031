"""Names of agents, and runs by the time of their start."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = {
    ("agents", "name"): "state->>'name'",
    ("runs", "started"): "rtrim(state->>'started_at', 'Z') || ' ' || (state->>'id')",
}


def upgrade() -> None:
    """Migrates to this revision."""
    for (table, name), expression in COLUMNS.items():
        op.add_column(table, sa.Column(name, sa.Text(), sa.Computed(expression, persisted=True)))
    op.create_index("agents_name_idx", "agents", ["name"])
    op.create_unique_constraint("runs_started_key", "runs", ["started"])


def downgrade() -> None:
    """Reverts this revision."""
    for table, name in COLUMNS:
        op.drop_column(table, name)
