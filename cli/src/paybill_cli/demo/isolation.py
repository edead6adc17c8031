"""Chapter 4: each tenant uses its own data in PostgreSQL, and has no access to the data of other tenants."""

import asyncio
from collections.abc import Awaitable, Callable

from paybill_stack.layout import SERVICES

from paybill_cli.demo.session import Connection, DemoSession, Tenant

DENIED = "42501"
WRONG_PASSWORD = "28P01"  # noqa: S105  # an SQLSTATE
NOT_PERMITTED = "28000"

_INSERT = 'INSERT INTO documents (id, body) VALUES ($1, \'{"made_by": "demo"}\')'
_OWN = "SELECT id FROM documents ORDER BY id"


async def check_isolation(session: DemoSession, tenants: list[Tenant]) -> None:
    """Runs all checks with the tenants' own roles."""
    session.printer.chapter(4, "Each tenant uses its own data, and cannot access other tenants' data")
    acme, aria, bolt, birch, crane = tenants
    await asyncio.gather(*(_write(session, tenant) for tenant in tenants))
    for tenant in tenants:
        await check_own_documents(session, tenant)
    await _check_pool(session, acme, aria)
    await _check_bridge(session, bolt, birch)
    for outsider, owner in ((acme, crane), (bolt, crane), (acme, bolt), (crane, acme), (crane, bolt)):
        await session.expect_refusal(
            f"{outsider.slug} cannot connect to {owner.slug}'s database",
            _connecting(session, outsider, database=owner.endpoint.database),
            DENIED,
        )
    for service in SERVICES:
        attempts = [session.refusal(_connecting(session, tenant, database=service), DENIED) for tenant in tenants]
        results = await asyncio.gather(*attempts)
        allowed = [tenant.slug for tenant, (refused, _) in zip(tenants, results, strict=True) if not refused]
        observed = f"not refused: {', '.join(allowed)}" if allowed else results[0][1]
        session.check(f"no tenant can connect to the {service} service's database", not allowed, observed)
    await session.expect_refusal(
        f"{acme.slug} cannot log in with a wrong password",
        _connecting(session, acme, password="guessed"),  # noqa: S106  # a wrong password
        WRONG_PASSWORD,
    )
    await session.expect_refusal(
        f"{acme.slug} cannot log in as the superuser", _connecting(session, acme, user="postgres"), WRONG_PASSWORD
    )


async def check_own_documents(session: DemoSession, tenant: Tenant) -> None:
    """Checks that a tenant reads exactly its own documents."""
    async with session.connected(tenant) as connection:
        rows = [row["id"] for row in await connection.fetch(_OWN)]
    session.check(f"{tenant.slug} reads its own documents and no others", rows == tenant.documents, ", ".join(rows))


async def check_login_refused(session: DemoSession, tenant: Tenant) -> None:
    """Checks that a tenant cannot log in any more."""
    await session.expect_refusal(f"{tenant.slug} can no longer log in", _connecting(session, tenant), NOT_PERMITTED)


async def _write(session: DemoSession, tenant: Tenant) -> None:
    async with session.connected(tenant) as connection:
        await connection.executemany(_INSERT, [(document,) for document in tenant.documents])


async def _check_pool(session: DemoSession, one: Tenant, other: Tenant) -> None:
    async with session.connected(one) as connection:
        count = await connection.fetchval("SELECT count(*) FROM documents WHERE id = ANY($1)", other.documents)
        session.check(f"{one.slug} cannot read {other.slug}'s rows in the same table", count == 0, f"{count} rows")
        changed = await connection.execute("UPDATE documents SET body = '{}' WHERE id = ANY($1)", other.documents)
        session.check(f"{one.slug} cannot change {other.slug}'s rows", changed == "UPDATE 0", changed)
        await session.expect_refusal(
            f"{one.slug} cannot write rows as {other.slug}",
            lambda: connection.execute(
                "INSERT INTO documents (tenant_id, id, body) VALUES ($1, 'forged', '{}')", other.id
            ),
            DENIED,
        )
        await _check_role(session, connection, one, other)


async def _check_bridge(session: DemoSession, one: Tenant, other: Tenant) -> None:
    async with session.connected(one) as connection:
        await session.expect_refusal(
            f"{one.slug} cannot read {other.slug}'s schema in the same database",
            lambda: connection.fetch(f'SELECT * FROM "{other.endpoint.schema_name}".documents'),  # noqa: S608  # from an event
            DENIED,
        )
        await _check_role(session, connection, one, other)


async def _check_role(session: DemoSession, connection: Connection, one: Tenant, other: Tenant) -> None:
    await session.expect_refusal(
        f"{one.slug} cannot take {other.slug}'s role",
        lambda: connection.execute(f'SET ROLE "{other.endpoint.username}"'),
        DENIED,
    )


def _connecting(session: DemoSession, tenant: Tenant, **changed: str) -> Callable[[], Awaitable[object]]:
    async def connect() -> None:
        async with session.connected(tenant, **changed) as connection:
            await connection.execute("SELECT 1")

    return connect
