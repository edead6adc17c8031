"""Checks state outside of Paybill's databases: tenants' databases, schemas and roles, and the provider's customers."""

from collections import Counter
from collections.abc import Mapping

import asyncpg
import httpx

from faults.fleet import Fleet

_ISOLATION = {"starter": "pooled", "team": "bridge", "business": "silo"}
_REGION = "eu_central"


async def environments(fleet: Fleet, plans: Mapping[str, str]) -> list[str]:
    """Returns missing and unexpected environments. plans: of each tenant, by its id."""
    roles = {id_: f"t_{id_.removeprefix('ten_')}" for id_ in plans}
    by_isolation: dict[str, set[str]] = {"pooled": set(), "bridge": set(), "silo": set()}
    for id_, plan in plans.items():
        by_isolation[_ISOLATION[plan]].add(roles[id_])
    databases = await _names(
        fleet, "postgres", "SELECT datname FROM pg_database WHERE datname ~ '^(pool|bridge|silo)_'"
    )
    found = {
        "databases": databases,
        "roles": await _names(fleet, "postgres", "SELECT rolname FROM pg_roles WHERE rolname ~ '^t_'"),
        "schemas": await _names(fleet, f"bridge_{_REGION}", "SELECT nspname FROM pg_namespace WHERE nspname ~ '^t_'"),
    }
    expected = {
        "databases": {role.replace("t_", "silo_", 1) for role in by_isolation["silo"]}
        | {f"pool_{_REGION}" for _ in by_isolation["pooled"]}
        | {f"bridge_{_REGION}" for _ in by_isolation["bridge"]},
        "roles": set(roles.values()),
        "schemas": by_isolation["bridge"],
    }
    wrong = []
    for kind, names in expected.items():
        wrong += [f"{kind}: {name} is missing" for name in sorted(names - found[kind])]
        wrong += [f"{kind}: {name} belongs to no tenant" for name in sorted(found[kind] - names)]
    for database in sorted(databases - {f"pool_{_REGION}", f"bridge_{_REGION}"}):
        if not await _names(fleet, database, "SELECT relname FROM pg_class WHERE relname = 'documents'"):
            wrong.append(f"{database} has no tables")
    return wrong


async def _names(fleet: Fleet, database: str, query: str) -> set[str]:
    password = fleet.password("postgres-superuser")
    connection = await asyncpg.connect(fleet.database("postgres", database), password=password)
    try:
        return {row[0] for row in await connection.fetch(query)}
    finally:
        await connection.close()


async def customers(url: str, key: str, plans: Mapping[str, str]) -> list[str]:
    """Returns tenants without exactly one customer and one subscription at the provider."""
    wrong = []
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=10) as client:
        for kind in ("customers", "subscriptions"):
            found: Counter[str] = Counter()
            after: dict[str, str] = {}
            more = True
            while more:
                page = (await client.get(f"/v1/{kind}", params={"limit": "100", **after})).raise_for_status().json()
                for each in page["data"]:
                    found.update(value for value in each["metadata"].values() if value.startswith("ten_"))
                    after = {"starting_after": each["id"]}
                more = page["has_more"]
            wrong += [
                f"{id_} has {found[id_]} {kind} at the provider"
                for id_ in sorted(found.keys() | plans.keys())
                if found[id_] != 1 or id_ not in plans
            ]
    return wrong
