"""Tenants, incidents and violations of invariants."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="tenants_pkey"),
    )
    op.create_table(
        "incidents",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.Column("status", sa.Text(), sa.Computed("state->>'status'", persisted=True)),
        sa.Column("kind", sa.Text(), sa.Computed("state->>'kind'", persisted=True)),
        sa.Column("tenant_id", sa.Text(), sa.Computed("state->>'tenant_id'", persisted=True)),
        sa.Column("owner", sa.Text(), sa.Computed("state->>'owner'", persisted=True)),
        sa.Column("opened", sa.Text(), sa.Computed("(state->>'since') || '/' || (state->>'id')", persisted=True)),
        sa.PrimaryKeyConstraint("id", name="incidents_pkey"),
        sa.UniqueConstraint("opened", name="incidents_opened_key"),
    )
    op.create_index("incidents_status_opened_idx", "incidents", ["status", "opened"])
    op.create_index("incidents_tenant_id_idx", "incidents", ["tenant_id"])
    op.create_table(
        "violations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.Column("status", sa.Text(), sa.Computed("state->>'status'", persisted=True)),
        sa.Column("tenant_id", sa.Text(), sa.Computed("state->>'tenant_id'", persisted=True)),
        sa.PrimaryKeyConstraint("id", name="violations_pkey"),
    )
    op.create_index("violations_status_idx", "violations", ["status"])
    op.create_index("violations_tenant_id_idx", "violations", ["tenant_id"])


def downgrade() -> None:
    """Reverts this revision."""
    for table in ("violations", "incidents", "tenants"):
        op.drop_table(table)
