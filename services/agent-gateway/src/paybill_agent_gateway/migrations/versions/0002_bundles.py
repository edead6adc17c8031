"""Blueprints, bundles, and the bundles in force."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    for table in ("blueprints", "bundles_in_force"):
        op.create_table(
            table,
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("revision", sa.BigInteger(), nullable=False),
            sa.Column("state", JSONB(), nullable=False),
            sa.PrimaryKeyConstraint("id", name=f"{table}_pkey"),
        )
    published = "(state->>'published_at') || '/' || (state->>'content_hash')"
    op.create_table(
        "bundles",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.Column("published", sa.Text(), sa.Computed(published, persisted=True)),
        sa.Column("blueprint", sa.Text(), sa.Computed("state->'content'->'blueprint'->>'name'", persisted=True)),
        sa.PrimaryKeyConstraint("id", name="bundles_pkey"),
        sa.UniqueConstraint("published", name="bundles_published_key"),
    )
    op.create_index("bundles_blueprint_idx", "bundles", ["blueprint"])


def downgrade() -> None:
    """Reverts this revision."""
    for table in ("bundles", "bundles_in_force", "blueprints"):
        op.drop_table(table)
