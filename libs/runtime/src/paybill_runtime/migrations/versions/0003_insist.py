"""What a statement insists on: it fails with an SQLSTATE of ours unless it is so."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the shape."""
    op.execute(
        "CREATE FUNCTION chassis.insist(so boolean, state text) RETURNS void LANGUAGE plpgsql AS "
        "$$ BEGIN IF so IS NOT TRUE THEN RAISE EXCEPTION 'another transaction came first' USING ERRCODE = state; "
        "END IF; END $$"
    )


def downgrade() -> None:
    """Change it back."""
    op.execute("DROP FUNCTION chassis.insist")
