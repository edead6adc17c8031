"""Blueprints and environments."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blueprints",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="blueprints_pkey"),
    )
    op.create_table(
        "environments",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.Column("tenant_id", sa.Text(), sa.Computed("state->>'tenant_id'", persisted=True)),
        sa.Column("status", sa.Text(), sa.Computed("state->>'status'", persisted=True)),
        sa.Column("region", sa.Text(), sa.Computed("state->>'region'", persisted=True)),
        sa.Column("preset", sa.Text(), sa.Computed("state->'plan'->>'preset'", persisted=True)),
        sa.PrimaryKeyConstraint("id", name="environments_pkey"),
        sa.UniqueConstraint("tenant_id", name="environments_tenant_id_key"),
    )
    op.create_index("environments_region_id_idx", "environments", ["region", "id"])
    op.create_index("environments_status_id_idx", "environments", ["status", "id"])


def downgrade() -> None:
    op.drop_table("environments")
    op.drop_table("blueprints")
