"""Creates the table of agents' rights, and adds the column for environments with agents."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_AGENTS = "CASE WHEN state->>'has_agents' = 'true' THEN state->'plan'->'blueprint'->>'name' END"


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "agent_rights",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="agent_rights_pkey"),
    )
    op.add_column("environments", sa.Column("agents", sa.Text(), sa.Computed(_AGENTS, persisted=True)))
    op.create_index("environments_agents_idx", "environments", ["agents"])


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_index("environments_agents_idx", "environments")
    op.drop_column("environments", "agents")
    op.drop_table("agent_rights")
