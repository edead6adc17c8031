"""Times of the ends of agents, and tenants by slug."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = {
    ("agents", "due"): "CASE WHEN state->>'ended_at' IS NULL THEN rtrim(state->>'expires_at', 'Z') END",
    ("tenants", "slug"): "state->>'slug'",
}


def upgrade() -> None:
    """Migrates to this revision."""
    for (table, name), expression in COLUMNS.items():
        op.add_column(table, sa.Column(name, sa.Text(), sa.Computed(expression, persisted=True)))
    op.create_index("agents_due_idx", "agents", ["due"])
    op.create_index("tenants_slug_idx", "tenants", ["slug"])


def downgrade() -> None:
    """Reverts this revision."""
    for table, name in COLUMNS:
        op.drop_column(table, name)
