"""Adds the fields of parts, billing periods and policies to the states of usage, changes and the catalogue."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_WINDOW = '{"included": 0, "growth": {}, "allocated": 0, "billed": 0, "parts": 0, "by_period": false}'
_METER = '{"by_period": false}'
_PLAN = '{"access_while_paused": ["keep_as_draft", "mark_uncollectible"]}'


def upgrade() -> None:
    """Migrates to this revision; a state that has a field already keeps it."""
    op.execute(
        "UPDATE meters SET state = '{\"reported\": {}}'::jsonb || jsonb_set(state, '{windows}', "  # noqa: S608  # our own text
        f"{_each('windows', _WINDOW)})"
    )
    op.execute("""UPDATE usage_windows SET state = '{"closed": true, "parts": []}'::jsonb || state""")
    op.execute(
        "UPDATE changes SET state = jsonb_set(state, '{wanted}', "
        """'{"without_proration": false, "drop_scheduled": false}'::jsonb || (state->'wanted'))"""
    )
    op.execute(
        "UPDATE changes SET state = jsonb_set(state, '{quote}', jsonb_set('{\"overdue\": null}'::jsonb || "
        "(state->'quote'), '{proration}', '{\"dropped\": []}'::jsonb || (state->'quote'->'proration'))) "
        "WHERE jsonb_typeof(state->'quote') = 'object'"
    )
    op.execute(
        "UPDATE catalogues SET state = jsonb_set(jsonb_set(jsonb_set(jsonb_set(state, "  # noqa: S608  # our own text
        f"'{{meters}}', {_each('meters', _METER)}), "
        f"'{{on_sale,meters}}', {_each('on_sale,meters', _METER)}), "
        f"'{{on_sale,plans}}', {_each('on_sale,plans', _PLAN)}), "
        f"'{{published}}', coalesce((SELECT jsonb_agg(jsonb_set(e, '{{plan}}', '{_PLAN}'::jsonb || (e->'plan')) "
        "ORDER BY n) FROM jsonb_array_elements(state->'published') WITH ORDINALITY AS x (e, n)), '[]'::jsonb))"
    )


def downgrade() -> None:
    """Reverts this revision: the version before ignores unknown fields of states."""


def _each(path: str, defaults: str) -> str:
    """Returns an expression for a list in the state with the default fields in each of its objects."""
    return (
        f"coalesce((SELECT jsonb_agg('{defaults}'::jsonb || e ORDER BY n) "  # noqa: S608  # our own text
        f"FROM jsonb_array_elements(state#>'{{{path}}}') WITH ORDINALITY AS x (e, n)), '[]'::jsonb)"
    )
