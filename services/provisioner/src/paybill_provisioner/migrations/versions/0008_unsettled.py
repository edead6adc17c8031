"""Finds the environments that are not as they have to be."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_UNSETTLED = """
CASE WHEN state->>'status' IN ('retained', 'purged') THEN NULL
WHEN state->>'refusal' IS NOT NULL OR state->>'failure' IS NOT NULL OR state->>'pending' IS NOT NULL
OR state->'approval'->>'status' IN ('requested', 'granted') OR state->>'paused' = 'true'
OR state->>'status' = 'purging' THEN 'held'
WHEN state->>'status' IN ('building', 'changing', 'compensating') THEN 'planned'
WHEN state->>'status' IN ('registered', 'failed', 'ready') AND state->'desired'->>'allows_access' = 'true'
AND state->'desired'->'size' IS DISTINCT FROM state->'built_size' THEN 'held' END
"""


def upgrade() -> None:
    """Migrates to this revision."""
    column = sa.Column("unsettled", sa.Text(), sa.Computed(_UNSETTLED, persisted=True))
    op.add_column("environments", column)
    op.create_index("environments_unsettled_idx", "environments", ["unsettled"])


def downgrade() -> None:
    """Reverts this revision."""
    op.drop_index("environments_unsettled_idx", "environments")
    op.drop_column("environments", "unsettled")
