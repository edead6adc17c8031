"""Adds closed and leftovers to the state of accounts."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.execute("""UPDATE accounts SET state = '{"closed": false, "leftovers": []}'::jsonb || state""")


def downgrade() -> None:
    """Reverts this revision."""
    op.execute("UPDATE accounts SET state = state - 'closed' - 'leftovers'")
