"""Adds the function that checks preconditions with an SQLSTATE, and the message id of a position."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.add_column("position", sa.Column("message", sa.Uuid()), schema="chassis")
    op.execute(
        "CREATE FUNCTION chassis.insist(so boolean, state text) RETURNS void LANGUAGE plpgsql AS "
        "$$ BEGIN IF so IS NOT TRUE THEN RAISE EXCEPTION 'another transaction came first' USING ERRCODE = state; "
        "END IF; END $$"
    )


def downgrade() -> None:
    """Reverts this revision."""
    op.execute("DROP FUNCTION chassis.insist")
    op.drop_column("position", "message", schema="chassis")
