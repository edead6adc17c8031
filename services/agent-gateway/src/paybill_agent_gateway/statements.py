"""Statements of workflow steps: one SQL text each, prepared, with every value as a parameter. No input or output.

Identifiers come from the bundle and from the endpoint's schema alone. A write is one statement: it inserts the action
row, changes rows only when it inserted that row, and returns the rows before and after. A violated check makes the
whole statement fail, so that neither a change nor an action row stays. PostgreSQL cannot raise without a function of
ours, so each check fails in a function of PostgreSQL itself that has an SQLSTATE of its own (`REFUSALS`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

from paybill_contracts.agent_bundles import (
    AgentResource,
    CreateStep,
    DeleteStep,
    ReadStep,
    ResourceColumn,
    UpdateStep,
    Verb,
    Write,
)

from paybill_agent_gateway.domain.conditions import Parameter, Parameters
from paybill_agent_gateway.domain.grants import RowCondition

ROW_DENIED = "row_denied"
ROWS_CHANGED = "rows_changed"
ROW_MISSING = "row_missing"
TOO_MANY_ROWS = "too_many_rows"
RESOURCE_DRIFTED = "resource_drifted"

REFUSALS: Final = {
    "2201F": ROW_DENIED,  # a power or square root of a negative number
    "2201E": ROWS_CHANGED,  # a logarithm of zero
    "2201B": ROW_MISSING,  # a regular expression that is none
    "2201G": TOO_MANY_ROWS,  # a histogram without width
    "22011": RESOURCE_DRIFTED,  # a part of a text with a negative length
}
"""Codes by the SQLSTATE with which a check fails. No other part of our statements can raise them."""

TRIGGER_BITS: Final = {Verb.CREATE: 4, Verb.DELETE: 8, Verb.UPDATE: 16}
"""Of pg_trigger.tgtype, by the writes that have the trigger."""
_CHECKS_ONLY: Final = ", ".join(
    f"'pg_catalog.{name}'::pg_catalog.regproc"
    for name in (
        '"RI_FKey_check_ins"', '"RI_FKey_check_upd"', '"RI_FKey_noaction_del"', '"RI_FKey_noaction_upd"',
        '"RI_FKey_restrict_del"', '"RI_FKey_restrict_upd"', "unique_key_recheck",
    )
)  # fmt: skip
"""Functions of PostgreSQL's own triggers that change no row. Those of `ON DELETE CASCADE` and the like are others."""
MAX_NAME_BYTES = 63
MAX_CREATED: Final = 1000
"""Rows of all tables, where the creation of a row changes others: the highest limit of a step."""
RUN, SEQ, DIGEST, IMAGE = "run", "seq", "digest", "image"
"""Names of parameters of every write. image: digest of the rows as they were shown; None when nobody approved them."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a step.

    columns: of the returned rows. limit: maximum of returned rows, or of changed rows of all tables.
    """

    resource: AgentResource
    verb: Verb
    sql: str
    parameters: tuple[Parameter, ...]
    columns: tuple[ResourceColumn, ...]
    limit: int


def quoted(name: str) -> str:
    """Quotes `name` as an SQL identifier. Raises ValueError for a name that PostgreSQL cannot store."""
    if not name or "\x00" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{name[:100]!r} is no PostgreSQL name: 1 to {MAX_NAME_BYTES} bytes, no NUL")
    return '"' + name.replace('"', '""') + '"'


def named(step: ReadStep | Write) -> frozenset[str]:
    """Returns the columns that a call of the step names, which one permit must contain."""
    match step:
        case ReadStep():
            return frozenset({*step.columns, *step.where, *(each.column for each in step.order)})
        case CreateStep():
            return frozenset(step.set)
        case UpdateStep():
            return frozenset({*step.set, *step.where})
        case DeleteStep():
            return frozenset(step.where)


def compile_read(step: ReadStep, resource: AgentResource, condition: RowCondition, schema: str) -> Statement:
    """Compiles a step that reads. A step with `one` returns two rows when there are several."""
    parameters, columns = Parameters(), _by_name(resource)
    returned = tuple(columns[name] for name in step.columns)
    where = [*_where(step.where, columns, parameters), condition.sql(_of("t"), parameters)]
    order = [f"{_of('t')(each.column)}{' DESC' if each.descending else ''}" for each in step.order]
    sql = (
        f"SELECT {_names('t', returned)} FROM {quoted(schema)}.{quoted(resource.name)} AS t"  # noqa: S608  # quoted
        f" WHERE {' AND '.join(where)}"
        f"{' ORDER BY ' + ', '.join(order) if order else ''}"
        f" LIMIT {parameters.fixed('bigint', 2 if step.one else step.limit)}"
    )
    return Statement(resource, Verb.READ, sql, tuple(parameters.items), returned, 2 if step.one else step.limit)


def compile_write(
    step: Write, resource: AgentResource, condition: RowCondition, schema: str, shown: Iterable[str] = ()
) -> Statement:
    """Compiles a step that writes.

    shown: columns that are returned in addition to those that the step and the condition name, and to the key of an
    update; the login needs the right to read all of them.
    """
    parameters, columns = Parameters(), _by_name(resource)
    key = resource.columns[0].name
    returned = named(step) | condition.names | {*shown} | ({key} if isinstance(step, UpdateStep) else set())
    shape = tuple(each for each in resource.columns if each.name in returned)
    table = f"{quoted(schema)}.{quoted(resource.name)}"
    action = (
        "WITH act AS (INSERT INTO paybill_agent.actions (run, seq, digest, outcome)"  # noqa: S608  # parameters
        f" VALUES ({parameters.named('text', RUN)}, {parameters.named('bigint', SEQ)},"
        f" {parameters.named('text', DIGEST)}, 'done') ON CONFLICT DO NOTHING RETURNING 1)"
    )
    match step:
        case CreateStep():
            verb, limit, before = Verb.CREATE, MAX_CREATED if resource.also_changes else 1, None
            change = _create(table, step, columns, parameters, shape)
        case UpdateStep():
            verb, limit, before = Verb.UPDATE, step.limit, "b.rows"
            change = _update(table, step, columns, parameters, shape, key)
        case DeleteStep():
            verb, limit, before = Verb.DELETE, step.limit, "d.rows"
            change = _delete(table, step, columns, parameters, shape)
        case _:
            assert_never(step)
    denied = f"count(*) FILTER (WHERE ({condition.sql(_of('r'), parameters)}) IS NOT TRUE)"
    rows = _rows(shape, key)
    replaced = f", (SELECT count(*) AS n, {rows} AS rows FROM old AS r) AS b" if verb is Verb.UPDATE else ""  # noqa: S608  # quoted names
    sql = (
        f"{action}, {change} SELECT a.n = 1 AS acted, {before or 'NULL'} AS before,"  # noqa: S608  # quoted names
        f" {'NULL' if verb is Verb.DELETE else 'd.rows'} AS after, {_image(before)} AS image,"
        f"{'' if resource.also_changes else _drift(table, verb)} {_checks(parameters, limit, verb, before)}"
        " FROM (SELECT count(*) AS n FROM act) AS a,"
        f" (SELECT count(*) AS n, {denied} AS denied, {rows} AS rows FROM done AS r) AS d{replaced}"
    )
    return Statement(resource, verb, sql, tuple(parameters.items), shape, limit)


CLAIM: Final = (
    "INSERT INTO paybill_agent.actions (run, seq, digest, outcome) VALUES ($1::text, $2::bigint, '', 'void')"
    " ON CONFLICT DO NOTHING RETURNING 1"
)
"""Inserts the tombstone of an action: no row when the action is answered or voided already."""

ANSWERED: Final = "SELECT outcome, digest FROM paybill_agent.actions WHERE run = $1::text AND seq = $2::bigint"
"""Reads the outcome of an action whose key exists."""


def _create(
    table: str,
    step: CreateStep,
    columns: dict[str, ResourceColumn],
    parameters: Parameters,
    shape: Sequence[ResourceColumn],
) -> str:
    names = ", ".join(quoted(name) for name in step.set)
    values = ", ".join(parameters.named(columns[name].type, f"set.{name}") for name in step.set)
    return (
        f"done AS (INSERT INTO {table} AS t ({names}) SELECT {values} WHERE EXISTS (SELECT FROM act)"  # noqa: S608  # quoted
        f" RETURNING {_names('t', shape)})"
    )


def _update(
    table: str,
    step: UpdateStep,
    columns: dict[str, ResourceColumn],
    parameters: Parameters,
    shape: Sequence[ResourceColumn],
    key: str,
) -> str:
    """Locks the rows first: what is returned as before is what is changed, also under concurrent changes."""
    where = " AND ".join([*_where(step.where, columns, parameters), "EXISTS (SELECT FROM act)"])
    changes = ", ".join(f"{quoted(name)} = {parameters.named(columns[name].type, f'set.{name}')}" for name in step.set)
    return (
        f"old AS MATERIALIZED (SELECT {_names('t', shape)} FROM ONLY {table} AS t WHERE {where} FOR UPDATE),"  # noqa: S608  # quoted
        f" done AS (UPDATE ONLY {table} AS t SET {changes} FROM old WHERE t.{quoted(key)} = old.{quoted(key)}"
        f" RETURNING {_names('t', shape)})"
    )


def _delete(
    table: str,
    step: DeleteStep,
    columns: dict[str, ResourceColumn],
    parameters: Parameters,
    shape: Sequence[ResourceColumn],
) -> str:
    """Returns the rows as they were deleted: to lock them first would need the right to update."""
    where = " AND ".join([*_where(step.where, columns, parameters), "EXISTS (SELECT FROM act)"])
    return f"done AS (DELETE FROM ONLY {table} AS t WHERE {where} RETURNING {_names('t', shape)})"  # noqa: S608  # quoted


def _checks(parameters: Parameters, limit: int, verb: Verb, before: str | None) -> str:
    """Raises one of REFUSALS. Each argument depends on a row, or the planner would compute it before."""
    changed = f"{parameters.named('text', IMAGE)} <> {_image(before)}"
    if verb is Verb.UPDATE:
        changed += " OR b.n <> d.n AND b.n > 0"
    maximum = parameters.fixed("bigint", limit)
    return (
        f"ln(CASE WHEN a.n = 1 AND ({changed}) THEN 0 ELSE 1 END::float8),"
        " '' ~ CASE WHEN a.n = 1 AND d.n = 0 THEN '(' ELSE '' END,"
        f" width_bucket(0.5, 0, CASE WHEN d.n > {maximum} THEN 0 ELSE 1 END::float8, 1),"
        " sqrt(CASE WHEN d.denied > 0 THEN -1 ELSE 0 END::float8)"
    )


def _drift(table: str, verb: Verb) -> str:
    """Raises when the table has a trigger that may change other rows.

    A trigger or a foreign key with an action needs a lock of the table that conflicts with the one of this statement.
    The snapshot in which this check reads is taken after that lock, so that no trigger is added in between. Tables that
    inherit from this one are not changed (`ONLY`): their triggers are others.
    """
    name = table.replace("'", "''")
    changes = (
        f"SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = '{name}'::pg_catalog.regclass"
        f" AND g.tgenabled <> 'D' AND g.tgtype & {TRIGGER_BITS[verb]} <> 0"
        f" AND NOT (g.tgisinternal AND g.tgfoid IN ({_CHECKS_ONLY}))"
    )
    return f" substring('' FROM 1 FOR CASE WHEN a.n = 1 AND EXISTS ({changes}) THEN -1 ELSE 0 END),"


def _image(before: str | None) -> str:
    """Returns the digest of the rows before the write, as they are shown to the approver."""
    rows = f"coalesce({before}::text, '')" if before else "''"
    return f"encode(sha256(convert_to({rows}, 'UTF8')), 'hex')"


def _rows(shape: Sequence[ResourceColumn], key: str) -> str:
    """Aggregates rows to JSON, ordered by the key or by all columns, so that equal rows have one text."""
    fields = ", ".join(f"'{each.name}', {_json_of(each)}" for each in shape)
    row = f"jsonb_build_object({fields})"
    order = f"r.{quoted(key)}" if any(each.name == key for each in shape) else row
    return f"jsonb_agg({row} ORDER BY {order})"


def _json_of(column: ResourceColumn) -> str:
    place = f"r.{quoted(column.name)}"
    return f"{place}::text" if column.type in {"numeric", "jsonb", "bytea"} else place


def _where(where: dict[str, Any], columns: dict[str, ResourceColumn], parameters: Parameters) -> list[str]:
    """Returns bare equalities, which use the index of the key."""
    return [f"t.{quoted(name)} = {parameters.named(columns[name].type, f'where.{name}')}" for name in where]


def _names(alias: str, columns: Iterable[ResourceColumn]) -> str:
    return ", ".join(f"{alias}.{quoted(each.name)}" for each in columns)


def _of(alias: str) -> Any:
    return lambda name: f"{alias}.{quoted(name)}"


def _by_name(resource: AgentResource) -> dict[str, ResourceColumn]:
    return {each.name: each for each in resource.columns}
