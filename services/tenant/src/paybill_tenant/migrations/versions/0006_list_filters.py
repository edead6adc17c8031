"""Adds the time of the request to tenants, and the columns by which their list is filtered."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

PLAN = "coalesce(state->'entitlement'->>'plan', state->>'plan')"


def upgrade() -> None:
    """Migrates to this revision."""
    op.execute("""UPDATE tenants SET state = '{"requested_at": null}'::jsonb || state""")
    for name, expression in (("plan", PLAN), ("region", "state->>'region'")):
        op.add_column("tenants", sa.Column(name, sa.Text(), sa.Computed(expression, persisted=True)))
        op.create_index(f"tenants_{name}_slug_idx", "tenants", [name, "slug"])


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_column("tenants", "region")
    op.drop_column("tenants", "plan")
    op.execute("UPDATE tenants SET state = state - 'requested_at'")
