"""Adds the lifecycle policy, the timer of tenants, and the fields of their state that end without a new event."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SLUG = "(state->>'slug') || CASE WHEN state->>'slug_is_free' = 'true' THEN '~' || (state->>'id') ELSE '' END"
ADDED = (
    '{"entitlement": null, "scheduled": null, "left_by": null, "legal_holds": [], "remaining": [], '
    '"valid_until": null, "expected_by": null, '
    '"slug_is_free": false, "due": null}'
)
# The outbox keeps every fact, so that the origin of an offboarding is known also for tenants that left before.
LEFT_BY = (
    "SELECT convert_from(o.payload, 'UTF8')::jsonb->>'origin' FROM chassis.outbox AS o "
    "WHERE o.aggregate = 'tenant/' || t.id AND (o.subject LIKE '%.tenant.offboarding_started.v1' "
    "OR o.subject LIKE '%.tenant.tenant_cancelled.v1') ORDER BY o.revision DESC LIMIT 1"
)


def upgrade() -> None:
    """Migrates to this revision."""
    op.execute(f"UPDATE tenants SET state = '{ADDED}'::jsonb || state")  # noqa: S608  # our own text
    op.execute(f"UPDATE tenants AS t SET state = state || jsonb_build_object('left_by', ({LEFT_BY}))")  # noqa: S608
    op.drop_index("tenants_status_slug_idx", "tenants")
    op.drop_column("tenants", "slug")
    op.add_column("tenants", sa.Column("slug", sa.Text(), sa.Computed(SLUG, persisted=True)))
    op.create_unique_constraint("tenants_slug_key", "tenants", ["slug"])
    op.create_index("tenants_status_slug_idx", "tenants", ["status", "slug"])
    op.add_column("tenants", sa.Column("due", sa.Text(), sa.Computed("rtrim(state->>'due', 'Z')", persisted=True)))
    op.create_index("tenants_due_idx", "tenants", ["due"])
    op.create_table(
        "policies",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="policies_pkey"),
    )


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_table("policies")
    op.drop_column("tenants", "due")
    op.drop_index("tenants_status_slug_idx", "tenants")
    op.drop_column("tenants", "slug")
    op.add_column("tenants", sa.Column("slug", sa.Text(), sa.Computed("state->>'slug'", persisted=True)))
    op.create_unique_constraint("tenants_slug_key", "tenants", ["slug"])
    op.create_index("tenants_status_slug_idx", "tenants", ["status", "slug"])
