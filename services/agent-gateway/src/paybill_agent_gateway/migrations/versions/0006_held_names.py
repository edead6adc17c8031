"""Names of agents that claimed them; agents of earlier versions may share a name."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

HELD_NAME = (
    "(state->>'tenant_id') || '/' || (state->>'name') || CASE WHEN state->>'ended_at' IS NULL "
    "AND state->>'claims_name' = 'true' THEN '' ELSE '~' || (state->>'id') END"
)


def upgrade() -> None:
    """Migrates to this revision. An earlier form of revision 0005 added a column of this name."""
    op.execute("ALTER TABLE agents DROP COLUMN IF EXISTS held_name")
    op.add_column("agents", sa.Column("held_name", sa.Text(), sa.Computed(HELD_NAME, persisted=True)))
    op.create_unique_constraint("agents_held_name_key", "agents", ["held_name"])


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_column("agents", "held_name")
