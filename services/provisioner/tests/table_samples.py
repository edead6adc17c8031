"""Shape of a tenant's table, as the tenant sees it."""

from typing import Any

from paybill_provisioner.domain.environment_state import Environment


async def shape_of(connection: Any, environment: Environment) -> tuple[list[tuple[Any, ...]], list[str], str]:
    """Inserts a row without a column list, and returns it, the columns in their order and the key."""
    await connection.execute(f"INSERT INTO documents VALUES ('{environment.tenant_id}', 'a', '{{\"n\": 1}}')")
    rows = await connection.fetch("SELECT * FROM documents WHERE id = 'a'")
    columns = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'documents' ORDER BY ordinal_position"
    )
    key = await connection.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'documents'::regclass AND contype = 'p'"
    )
    return [tuple(row) for row in rows], [row[0] for row in columns], key
