"""Shapes of live tables, and their drift: differences from a bundle's resources that make statements unsafe."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from paybill_contracts.agent_bundles import AgentResource, Verb

from paybill_agent_gateway.statements import TRIGGER_BITS

SHAPES: Final = """
SELECT c.relname::text AS name, c.relkind::text AS kind,
  (SELECT jsonb_object_agg(a.attname, jsonb_build_array(format_type(a.atttypid, a.atttypmod), a.attnotnull,
          coalesce(l.collisdeterministic, true)))
   FROM pg_attribute AS a LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)::text AS columns,
  (SELECT coalesce(bit_or(t.tgtype), 0) FROM pg_trigger AS t
   WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D')::int AS triggers,
  EXISTS (SELECT FROM pg_rewrite AS r WHERE r.ev_class = c.oid) AS rules,
  (SELECT coalesce(bit_or(
     (f.confdeltype IN ('c', 'n', 'd'))::int * 8 | (f.confupdtype IN ('c', 'n', 'd'))::int * 16), 0)
   FROM pg_constraint AS f WHERE f.contype = 'f' AND f.confrelid = c.oid) AS actions
FROM pg_class AS c WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1::text)
  AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
""".replace("\n", " ")
"""Tables of a schema. Every login may read the catalogues, so that it needs no privilege on the tables."""

_TYPES: Final = {"timestamptz": "timestamp with time zone"}
_TABLE = "r"


@dataclass(frozen=True, slots=True)
class TableShape:
    """A live table. columns: type, whether it refuses NULL, and whether its collation is deterministic, by name.

    rules: statements on it are rewritten. triggers, actions: writes to it that have a trigger, or that change rows of
    other tables by a foreign key; bits of pg_trigger.tgtype.
    """

    kind: str
    columns: Mapping[str, tuple[str, bool, bool]]
    triggers: int
    rules: bool
    actions: int


Shapes: TypeAlias = Mapping[str, TableShape]


def shapes_of(rows: list[Any]) -> dict[str, TableShape]:
    """Returns the shapes by table from the rows of SHAPES."""
    return {
        row["name"]: TableShape(
            kind=row["kind"],
            columns={name: tuple(each) for name, each in json.loads(row["columns"] or "{}").items()},
            triggers=row["triggers"],
            rules=row["rules"],
            actions=row["actions"],
        )
        for row in rows
    }


def drift(resource: AgentResource, shapes: Shapes, verbs: Iterable[Verb]) -> list[str]:
    """Returns the differences between a resource and its live table that matter for these verbs.

    A column that refuses NULL where the resource accepts it makes no difference. Triggers and referential actions make
    none where the resource declares other tables, since changed rows of all tables are then counted.
    """
    shape = shapes.get(resource.name)
    if shape is None:
        return [f"there is no table {resource.name}"]
    found = [] if shape.kind == _TABLE else [f"{resource.name} is no ordinary table"]
    if shape.rules:
        found.append(f"a rule rewrites statements on {resource.name}")
    for column in resource.columns:
        live = shape.columns.get(column.name)
        if live is None:
            found.append(f"there is no column {resource.name}.{column.name}")
            continue
        type_, refuses_null, is_deterministic = live
        if type_ != _TYPES.get(column.type, column.type):
            found.append(f"{resource.name}.{column.name} has the type {type_}, not {column.type}")
        if not refuses_null and not column.nullable:
            found.append(f"{resource.name}.{column.name} accepts NULL")
        if not is_deterministic:
            found.append(f"the collation of {resource.name}.{column.name} is not deterministic")
    bits = sum(TRIGGER_BITS.get(verb, 0) for verb in verbs)
    if not resource.also_changes:
        if shape.triggers & bits:
            found.append(f"{resource.name} has a trigger, and the bundle declares no `also_changes`")
        if shape.actions & bits:
            found.append(f"a foreign key changes rows with {resource.name}, and the bundle declares no `also_changes`")
    return found
