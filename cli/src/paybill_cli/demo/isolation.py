"""Chapter 4: each tenant uses its own data in PostgreSQL, and is refused all that belongs to others."""

import asyncio
from collections.abc import Awaitable, Callable

from paybill_stack.layout import SERVICES

from paybill_cli.demo.scene import Connection, Scene, Tenant

DENIED = "42501"
WRONG_PASSWORD = "28P01"  # noqa: S105  # an SQLSTATE
NOT_PERMITTED = "28000"

_INSERT = 'INSERT INTO documents (id, body) VALUES ($1, \'{"made_by": "demo"}\')'
_OWN = "SELECT id FROM documents ORDER BY id"


async def show(scene: Scene, tenants: list[Tenant]) -> None:
    """All of it, as the tenants' own roles."""
    scene.voice.chapter(4, "Each uses its own data, and is refused the others'")
    acme, aria, bolt, birch, crane = tenants
    await asyncio.gather(*(_write(scene, tenant) for tenant in tenants))
    for tenant in tenants:
        await own_documents(scene, tenant)
    await _in_the_pool(scene, acme, aria)
    await _on_the_bridge(scene, bolt, birch)
    for outsider, whose in ((acme, crane), (bolt, crane), (acme, bolt), (crane, acme), (crane, bolt)):
        await scene.refused(
            f"{outsider.slug} is refused {whose.slug}'s database",
            _entering(scene, outsider, database=whose.endpoint.database),
            DENIED,
        )
    for service in SERVICES:
        tries = [scene.refusal(_entering(scene, tenant, database=service), DENIED) for tenant in tenants]
        results = await asyncio.gather(*tries)
        allowed = [tenant.slug for tenant, (refused, _) in zip(tenants, results, strict=True) if not refused]
        said = f"let in or in doubt: {', '.join(allowed)}" if allowed else results[0][1]
        scene.check(f"nobody gets into the {service} service's database", not allowed, said)
    await scene.refused(
        f"{acme.slug} is refused with a wrong password",
        _entering(scene, acme, password="guessed"),  # noqa: S106  # it opens nothing, which is the point
        WRONG_PASSWORD,
    )
    await scene.refused(
        f"{acme.slug} is refused as the superuser", _entering(scene, acme, user="postgres"), WRONG_PASSWORD
    )


async def own_documents(scene: Scene, tenant: Tenant) -> None:
    """Check that a tenant reads what it wrote, and nothing else."""
    async with scene.inside(tenant) as connection:
        rows = [row["id"] for row in await connection.fetch(_OWN)]
    scene.check(f"{tenant.slug} reads its own documents and no others", rows == tenant.documents, ", ".join(rows))


async def login_refused(scene: Scene, tenant: Tenant) -> None:
    """Check that a tenant cannot log in any more."""
    await scene.refused(f"{tenant.slug} can no longer log in", _entering(scene, tenant), NOT_PERMITTED)


async def _write(scene: Scene, tenant: Tenant) -> None:
    async with scene.inside(tenant) as connection:
        await connection.executemany(_INSERT, [(document,) for document in tenant.documents])


async def _in_the_pool(scene: Scene, one: Tenant, other: Tenant) -> None:
    async with scene.inside(one) as connection:
        seen = await connection.fetchval("SELECT count(*) FROM documents WHERE id = ANY($1)", other.documents)
        scene.check(f"{other.slug}'s rows in the same table are invisible to {one.slug}", seen == 0, f"{seen} rows")
        changed = await connection.execute("UPDATE documents SET body = '{}' WHERE id = ANY($1)", other.documents)
        scene.check(f"{one.slug} cannot change {other.slug}'s rows", changed == "UPDATE 0", changed)
        await scene.refused(
            f"{one.slug} cannot write rows in {other.slug}'s name",
            lambda: connection.execute(
                "INSERT INTO documents (tenant_id, id, body) VALUES ($1, 'forged', '{}')", other.id
            ),
            DENIED,
        )
        await _cannot_become(scene, connection, one, other)


async def _on_the_bridge(scene: Scene, one: Tenant, other: Tenant) -> None:
    async with scene.inside(one) as connection:
        await scene.refused(
            f"{one.slug} is refused {other.slug}'s schema in the same database",
            lambda: connection.fetch(f'SELECT * FROM "{other.endpoint.schema_name}".documents'),  # noqa: S608  # from a fact
            DENIED,
        )
        await _cannot_become(scene, connection, one, other)


async def _cannot_become(scene: Scene, connection: Connection, one: Tenant, other: Tenant) -> None:
    await scene.refused(
        f"{one.slug} cannot take {other.slug}'s role",
        lambda: connection.execute(f'SET ROLE "{other.endpoint.username}"'),
        DENIED,
    )


def _entering(scene: Scene, tenant: Tenant, **changed: str) -> Callable[[], Awaitable[object]]:
    async def enter() -> None:
        async with scene.inside(tenant, **changed) as connection:
            await connection.execute("SELECT 1")

    return enter
