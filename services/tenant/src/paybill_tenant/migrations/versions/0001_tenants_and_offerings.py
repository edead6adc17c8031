"""Tenants and offerings."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.Column("slug", sa.Text(), sa.Computed("state->>'slug'", persisted=True)),
        sa.Column("status", sa.Text(), sa.Computed("state->>'status'", persisted=True)),
        sa.PrimaryKeyConstraint("id", name="tenants_pkey"),
        sa.UniqueConstraint("slug", name="tenants_slug_key"),
    )
    op.create_index("tenants_status_slug_idx", "tenants", ["status", "slug"])
    op.create_table(
        "offerings",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="offerings_pkey"),
    )


def downgrade() -> None:
    op.drop_table("offerings")
    op.drop_table("tenants")
