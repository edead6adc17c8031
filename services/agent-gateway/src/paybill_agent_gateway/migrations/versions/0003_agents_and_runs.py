"""Agents, freezes, runs and days; and the login of agents in the state of tenants."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ("agents", "freezes", "runs", "agent_days")
RUN_STATUS = (
    "CASE WHEN state->>'ended' IS NOT NULL THEN 'ended' WHEN state->>'intent' IS NOT NULL THEN 'pending' "
    "WHEN state->'approval'->>'status' IN ('requested', 'granted') THEN 'approval' ELSE 'waiting' END"
)
COLUMNS = {
    "agents": {
        "tenant_id": "state->>'tenant_id'",
        "role": "state->>'role'",
        "status": "CASE WHEN state->>'ended_at' IS NULL THEN 'active' ELSE 'ended' END",
    },
    "runs": {
        "tenant_id": "state->>'tenant_id'",
        "agent_id": "state->>'agent_id'",
        "workflow": "state->>'workflow'",
        "status": RUN_STATUS,
        "approval_id": "state->'approval'->>'id'",
        "approval_status": "state->'approval'->>'status'",
        "due": "rtrim(state->>'due', 'Z')",
        "claim_due": "rtrim(state->>'claim_due', 'Z')",
    },
}
INDEXES = (
    ("agents", ("tenant_id", "id")),
    ("runs", ("tenant_id", "id")),
    ("runs", ("status", "id")),
    ("runs", ("approval_id",)),
    ("runs", ("approval_status",)),
    ("runs", ("due",)),
    ("runs", ("claim_due",)),
)


def upgrade() -> None:
    """Migrates to this revision."""
    op.execute("""UPDATE tenants SET state = '{"agents": null, "epoch": 0, "is_open": false}'::jsonb || state""")
    for table in TABLES:
        op.create_table(
            table,
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("revision", sa.BigInteger(), nullable=False),
            sa.Column("state", JSONB(), nullable=False),
            *(
                sa.Column(name, sa.Text(), sa.Computed(expression, persisted=True))
                for name, expression in COLUMNS.get(table, {}).items()
            ),
            sa.PrimaryKeyConstraint("id", name=f"{table}_pkey"),
        )
    for table, columns in INDEXES:
        op.create_index(f"{table}_{'_'.join(columns)}_idx", table, list(columns))


def downgrade() -> None:
    """Reverts this revision."""
    for table in reversed(TABLES):
        op.drop_table(table)
    op.execute("UPDATE tenants SET state = state - 'agents' - 'epoch' - 'is_open'")
