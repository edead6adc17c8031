"""Adds the unpaid invoice, its amount and the pause to the state of subscriptions."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.execute(
        "UPDATE subscriptions SET state = jsonb_set(state, '{subscription}', "
        """'{"overdue": null, "unpaid_invoice": null, "pause": null}'::jsonb || (state->'subscription'))"""
    )


def downgrade() -> None:
    """Reverts this revision."""
    paths = " ".join(f"#- '{{subscription,{field}}}'" for field in ("overdue", "unpaid_invoice", "pause"))
    op.execute(f"UPDATE subscriptions SET state = state {paths}")  # noqa: S608  # our own text
