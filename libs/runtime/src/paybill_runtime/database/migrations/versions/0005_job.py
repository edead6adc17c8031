"""Replaces the table of effects by one table of all background jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Migrates to this revision."""
    op.create_table(
        "job",
        sa.Column("job_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("locks", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("lease", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True)),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("requests", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.Column("event_id", sa.Uuid()),
        sa.Column("revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("job_id", name="job_pkey"),
        schema="chassis",
    )
    # Replicas of an older version cannot add rows between the copy and the end of the table.
    op.execute("LOCK TABLE chassis.outbox, chassis.effect, chassis.parked IN ACCESS EXCLUSIVE MODE")
    op.execute(
        "INSERT INTO chassis.job "
        "(event_id, kind, key, queue, locks, lease, priority, state, due, attempts, error, ended_at) "
        "SELECT event_id, work, coalesce(nullif(tenant, ''), '-'), "
        "coalesce(nullif(tenant, ''), '-'), ARRAY['resource', 'access'], "
        "'partition-' || partition, 1, state, next_at, attempts, reason, "
        "CASE state WHEN 'pending' THEN NULL ELSE now() END FROM chassis.effect WHERE state <> 'done' ORDER BY position"
    )
    op.drop_table("effect", schema="chassis")
    op.execute(
        "INSERT INTO chassis.job (kind, key, queue, locks, lease, priority, state, due) "
        "SELECT DISTINCT ON (partition, tenant) 'retry', partition || '/' || tenant, partition || '/' || tenant, "
        "ARRAY[partition || '/' || tenant], CASE partition WHEN 16 THEN 'intake' WHEN 17 THEN 'all-facts' "
        "ELSE 'partition-' || partition END, 1, 'pending', now() FROM chassis.parked"
    )
    for name, columns, where in (
        ("job_order_idx", ["queue", "position"], "state = 'pending'"),
        ("job_due_idx", ["priority", "due"], "state = 'pending'"),
        ("job_failed_idx", ["position"], "state = 'failed'"),
        ("job_ended_idx", ["ended_at"], "ended_at IS NOT NULL"),
    ):
        op.create_index(name, "job", columns, schema="chassis", postgresql_where=sa.text(where))
    op.create_index(
        "job_queue_idx",
        "job",
        ["priority", "queue", "position"],
        schema="chassis",
        postgresql_where=sa.text("state = 'pending'"),
        postgresql_include=["due"],
    )
    op.create_index(
        "job_key_idx",
        "job",
        ["kind", "key"],
        unique=True,
        schema="chassis",
        postgresql_where=sa.text("state = 'pending' AND event_id IS NULL"),
    )


def downgrade() -> None:
    """Reverts this revision; jobs without a fact are lost, and start again with the service."""
    op.create_table(
        "effect",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("work", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("partition", sa.SmallInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("event_id", "work", name="effect_pkey"),
        schema="chassis",
    )
    op.execute(
        "INSERT INTO chassis.effect (event_id, work, tenant, partition, attempts, state, next_at, reason) "
        "SELECT event_id, kind, replace(queue, '-', ''), split_part(lease, '-', 2)::smallint, attempts, "
        "CASE state WHEN 'cancelled' THEN 'failed' ELSE state END, due, error "
        "FROM chassis.job WHERE event_id IS NOT NULL ORDER BY position"
    )
    op.drop_table("job", schema="chassis")
    for name, columns in (("effect_pending_idx", ["tenant", "position"]), ("effect_waiting_idx", ["position"])):
        op.create_index(name, "effect", columns, schema="chassis", postgresql_where=sa.text("state = 'pending'"))
