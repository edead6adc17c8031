"""Creates the table of subscribers that may open the personal data of this service."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "key_recipient",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary()),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="key_recipient_pkey"),
        schema="chassis",
    )


def downgrade() -> None:
    """Reverts this revision; subscribers that were allowed to open personal data have to be allowed again."""
    op.drop_table("key_recipient", schema="chassis")
