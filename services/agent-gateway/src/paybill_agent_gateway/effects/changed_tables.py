"""Rows that a write changes beside its own, by cascades and triggers: counted inside the transaction."""

from typing import Final, TypeAlias

from paybill_contracts.agent_bundles import AgentResource

from paybill_agent_gateway.effects.connections import Connection

Counts: TypeAlias = dict[tuple[str, str], int]
"""Changed rows by schema and table."""

FIRE_DEFERRED: Final = "SET CONSTRAINTS ALL IMMEDIATE"
"""Executes deferred triggers and constraints now instead of after the count, at COMMIT."""

MAX_ROUNDS: Final = 8
"""Rounds of triggers that defer others again; after more, a write is refused like one of an undeclared table."""

# Statistics of earlier transactions of the session that are not reported yet are in the counts, so the difference is
# taken. TRUNCATE and the like count no row, and take counts of the transaction back; their lock shows them, and lasts
# until the end of the transaction. It appears as a table of no schema, which no resource declares.
COUNTS: Final = """
SELECT schemaname::text AS schema, relname::text AS name, n_tup_ins + n_tup_upd + n_tup_del AS rows
FROM pg_stat_xact_user_tables WHERE schemaname <> 'paybill_agent' AND n_tup_ins + n_tup_upd + n_tup_del > 0
UNION ALL
SELECT '', l.relation::text, 1 FROM pg_locks AS l LEFT JOIN pg_class AS c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
  AND c.relpersistence IS DISTINCT FROM 't'
""".replace("\n", " ").strip()


async def counts(connection: Connection) -> Counts:
    """Returns the changed rows of the transaction, and of earlier ones whose statistics are not reported yet."""
    return {(each["schema"], each["name"]): each["rows"] for each in await connection.fetch(COUNTS)}


async def settled_counts(connection: Connection) -> Counts:
    """Executes deferred triggers, and returns the changed rows.

    A trigger can defer others again. Each of these follows from a changed row: none is left when no row changes.
    """
    await connection.fetch(FIRE_DEFERRED)
    found = await counts(connection)
    for _ in range(MAX_ROUNDS):
        await connection.fetch(FIRE_DEFERRED)
        again = await counts(connection)
        if again == found:
            return again
        found = again
    return found | {("", "triggers without an end"): 1}


def changed_beside(
    resource: AgentResource, schema: str, own: int, before: Counts, after: Counts
) -> dict[str, int] | None:
    """Returns the rows that a write changed beside its own rows, by table; None for a table that is not declared.

    own: number of the write's own rows.
    """
    changed = {table: rows - before.get(table, 0) for table, rows in after.items() if rows > before.get(table, 0)}
    declared = {(schema, name) for name in (resource.name, *resource.also_changes)}
    if changed.keys() - declared or (schema, resource.name) not in changed:
        return None
    changed[schema, resource.name] -= own
    return {name: rows for (_, name), rows in sorted(changed.items()) if rows > 0}
