"""Adds the contact digest to tenants, and its key to the lifecycle policy."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.execute("""UPDATE tenants SET state = '{"contact_digest": null, "contact_until": null}'::jsonb || state""")
    op.execute("""UPDATE policies SET state = '{"contact_key": null}'::jsonb || state""")
    digest = sa.Computed("state->>'contact_digest'", persisted=True)
    op.add_column("tenants", sa.Column("contact_digest", sa.Text(), digest))
    op.create_index("tenants_contact_digest_idx", "tenants", ["contact_digest"])


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_column("tenants", "contact_digest")
    op.execute("UPDATE tenants SET state = state - 'contact_digest' - 'contact_until'")
    op.execute("UPDATE policies SET state = state - 'contact_key'")
