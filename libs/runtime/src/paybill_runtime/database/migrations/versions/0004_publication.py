"""Moves the sequences of facts to a narrow table, so that a publication does not write the fact again; indexes keys."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.execute("LOCK TABLE chassis.outbox IN ACCESS EXCLUSIVE MODE")
    op.create_table(
        "publication",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("position", name=op.f("publication_pkey")),
        schema="chassis",
    )
    op.execute("INSERT INTO chassis.publication SELECT position, sequence FROM chassis.outbox")
    op.create_index(
        "publication_waiting_idx",
        "publication",
        ["position"],
        schema="chassis",
        postgresql_where=sa.text("sequence IS NULL"),
    )
    op.create_index(
        "publication_sequence_idx",
        "publication",
        ["sequence"],
        schema="chassis",
        postgresql_where=sa.text("sequence IS NOT NULL"),
    )
    op.drop_index("outbox_waiting_idx", table_name="outbox", schema="chassis")
    op.drop_index("outbox_sequence_idx", table_name="outbox", schema="chassis")
    op.drop_column("outbox", "sequence", schema="chassis")
    # The relay asks before each batch whether a key is not copied: without an index it would read those of all tenants.
    op.create_index(
        "data_key_uncopied_idx", "data_key", ["tenant"], schema="chassis", postgresql_where=sa.text("NOT copied")
    )


def downgrade() -> None:
    """Reverts this revision. Only for an outbox without facts: earlier versions need all headers in their column."""
    op.drop_index("data_key_uncopied_idx", table_name="data_key", schema="chassis")
    op.add_column("outbox", sa.Column("sequence", sa.BigInteger(), nullable=True), schema="chassis")
    op.execute(
        "UPDATE chassis.outbox AS o SET sequence = p.sequence FROM chassis.publication AS p "
        "WHERE p.position = o.position"
    )
    op.create_index("outbox_sequence_idx", "outbox", ["sequence"], schema="chassis")
    op.create_index(
        "outbox_waiting_idx",
        "outbox",
        ["position"],
        schema="chassis",
        postgresql_where=sa.text("sequence IS NULL"),
    )
    op.drop_table("publication", schema="chassis")
