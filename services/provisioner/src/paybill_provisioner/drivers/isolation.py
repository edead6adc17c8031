"""Inspection of a database of tenants: every guarantee of their isolation, by PostgreSQL's catalogues.

Nothing is judged by a name alone: policies are compared by their expression, and every privilege, view, function,
trigger and publication is compared with those that this driver makes. An object of PostgreSQL itself has an id below
16384, and its privileges are compared with those of a new database: neither a schema nor an extension is trusted.
"""

from collections.abc import Iterator
from typing import Any

from paybill_contracts.cells import Breach, Guarantee
from paybill_contracts.placement import Isolation

from paybill_provisioner.domain.agent_rights import RightsByBlueprint
from paybill_provisioner.drivers.expected_grants import ExpectedGrants, number_of_silo
from paybill_provisioner.drivers.inspection import has_actions_policy, is_our_policy
from paybill_provisioner.drivers.namespaces import ACTIONS, ACTIONS_POLICY_EXPRESSION, POLICY, POLICY_EXPRESSION
from paybill_provisioner.drivers.server import Connection

_MADE_TABLE = "c.oid >= 16384 AND c.relpersistence <> 't'"
"""Tables and views that a new database does not have. No other session can use a temporary one."""

TABLES = f"""
SELECT n.nspname || '.' || c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
       ARRAY(SELECT ARRAY[p.polname::text, p.polcmd::text, p.polpermissive::text, p.polroles::text,
                          pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)]
             FROM pg_policy AS p WHERE p.polrelid = c.oid ORDER BY p.polname) AS policies
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND {_MADE_TABLE}
"""  # noqa: S608  # constants

# A view is a rule named _RETURN; other rules rewrite statements on a table. One of PostgreSQL's own that was replaced
# depends on a table of ours.
VIEWS = """
SELECT n.nspname || '.' || c.relname AS name, pg_get_userbyid(c.relowner)::text AS owner,
       CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'rule ' || r.rulename END AS kind
FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND (r.oid >= 16384 OR EXISTS (
    SELECT FROM pg_depend AS d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    AND d.refclassid = 'pg_class'::regclass AND d.refobjid >= 16384))
"""

# PostgreSQL itself has no function that runs as its owner.
FUNCTIONS = """
SELECT format('%s.%s(%s)', n.nspname, f.proname, pg_get_function_identity_arguments(f.oid)) AS name,
       pg_get_userbyid(f.proowner)::text AS owner, f.prosecdef AS as_owner
FROM pg_proc AS f JOIN pg_namespace AS n ON n.oid = f.pronamespace
WHERE (f.oid >= 16384 OR f.prosecdef) AND NOT pg_is_other_temp_schema(n.oid)
"""

TRIGGERS = """
SELECT n.nspname || '.' || c.relname || '.' || t.tgname AS name, t.tgfoid::regprocedure::text AS function
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND c.relpersistence <> 't'
UNION ALL SELECT e.evtname::text, e.evtfoid::regprocedure::text FROM pg_event_trigger AS e
"""

PUBLICATIONS = "SELECT pubname::text AS name, pg_get_userbyid(pubowner)::text AS owner FROM pg_publication"

# Every entry of an access list, and the owner of every object. An empty list has the privileges of its default.
# Default privileges are those of roles that can create something: every role can change its own.
GRANTS = f"""
SELECT object, a.grantee::regrole::text AS grantee, a.grantee = 0 AS to_public, owner::regrole::text AS owner,
       a.privilege_type AS privilege, a.is_grantable AS grantable, owner <> (SELECT datdba FROM pg_database
       WHERE datname = current_database()) AS foreign, kind, schema
FROM (
    SELECT 'database', d.datname::text, d.datdba, coalesce(d.datacl, acldefault('d', d.datdba)), ''
    FROM pg_database AS d WHERE d.datname = current_database()
    UNION ALL
    SELECT 'schema', n.nspname::text, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner)), n.nspname::text
    FROM pg_namespace AS n
    WHERE (n.oid >= 16384 OR n.oid = 'public'::regnamespace) AND NOT pg_is_other_temp_schema(n.oid)
    UNION ALL
    SELECT 'table', n.nspname || '.' || c.relname, c.relowner,
           coalesce(c.relacl, acldefault((CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char", c.relowner)),
           n.nspname::text
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'S') AND {_MADE_TABLE}
    UNION ALL
    SELECT 'column', n.nspname || '.' || c.relname || '.' || t.attname, c.relowner, t.attacl, n.nspname::text
    FROM pg_attribute AS t JOIN pg_class AS c ON c.oid = t.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE t.attacl IS NOT NULL AND c.relkind IN ('r', 'p', 'f') AND {_MADE_TABLE}
    UNION ALL
    SELECT 'default', 'default privileges of ' || pg_get_userbyid(p.defaclrole), p.defaclrole, p.defaclacl, ''
    FROM pg_default_acl AS p
    WHERE EXISTS (
        SELECT FROM (
            SELECT DISTINCT a.grantee FROM pg_namespace AS n,
                   aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a WHERE a.privilege_type = 'CREATE'
            UNION SELECT a.grantee FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
            WHERE d.datname = current_database() AND a.privilege_type = 'CREATE'
        ) AS creators (role) WHERE role = 0 OR pg_has_role(p.defaclrole, role, 'USAGE'))
) AS objects (kind, object, owner, acl, schema), aclexplode(acl) AS a
WHERE a.grantee <> owner OR owner <> (SELECT datdba FROM pg_database WHERE datname = current_database())
"""  # noqa: S608  # constants

# Entries that the access list of an object of PostgreSQL itself has in addition to those of a new database, of which
# pg_init_privs has all but those of the information schema.
SYSTEM_GRANTS = """
SELECT object, added.grantee::regrole::text AS grantee, added.grantee = 0 AS to_public, owner::regrole::text AS owner,
       added.privilege_type AS privilege, added.is_grantable AS grantable, false AS foreign, 'system' AS kind,
       '' AS schema
FROM (
    SELECT 'pg_class'::regclass, c.oid, 0, n.nspname || '.' || c.relname, c.relowner, c.relacl,
           acldefault('r', c.relowner)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid < 16384 AND c.relacl IS NOT NULL
    UNION ALL
    SELECT 'pg_class'::regclass, c.oid, t.attnum, n.nspname || '.' || c.relname || '.' || t.attname, c.relowner,
           t.attacl, acldefault('c', c.relowner)
    FROM pg_attribute AS t JOIN pg_class AS c ON c.oid = t.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid < 16384 AND t.attacl IS NOT NULL
    UNION ALL
    SELECT 'pg_proc'::regclass, f.oid, 0,
           format('%s.%s(%s)', n.nspname, f.proname, pg_get_function_identity_arguments(f.oid)), f.proowner, f.proacl,
           acldefault('f', f.proowner)
    FROM pg_proc AS f JOIN pg_namespace AS n ON n.oid = f.pronamespace WHERE f.oid < 16384 AND f.proacl IS NOT NULL
    UNION ALL
    SELECT 'pg_namespace'::regclass, n.oid, 0, n.nspname::text, n.nspowner, n.nspacl, acldefault('n', n.nspowner)
    FROM pg_namespace AS n
    WHERE n.oid < 16384 AND n.oid <> 'public'::regnamespace AND n.nspacl IS NOT NULL
) AS objects (catalogue, oid, part, object, owner, acl, initial)
LEFT JOIN pg_init_privs AS i ON (i.classoid, i.objoid, i.objsubid) = (catalogue, objects.oid, part)
CROSS JOIN LATERAL (
    SELECT grantee, privilege_type, is_grantable FROM aclexplode(acl)
    EXCEPT SELECT grantee, privilege_type, is_grantable FROM aclexplode(coalesce(i.initprivs, initial))
) AS added
WHERE acl IS DISTINCT FROM i.initprivs AND added.grantee <> owner AND added.grantee <> current_user::regrole
AND NOT (catalogue = 'pg_class'::regclass AND objects.oid = 'pg_class'::regclass AND part <> 0 AND added.grantee = 0
         AND NOT added.is_grantable AND added.privilege_type = 'SELECT')
AND NOT (split_part(object, '.', 1) = 'information_schema' AND added.grantee = 0 AND NOT added.is_grantable
         AND added.privilege_type IN ('USAGE', 'SELECT'))
"""

# Rights of PUBLIC that the template of tenants' databases does not have: an older database has them until the servers
# are prepared again, which `paybill up` does.
PUBLIC_RIGHTS = """
SELECT f.oid::regprocedure::text AS object, 'EXECUTE' AS privilege
FROM pg_proc AS f, aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) AS a
WHERE f.pronamespace = 'pg_catalog'::regnamespace AND a.grantee = 0 AND (
    f.proname ~ '^(lo_|loread$|lowrite$|pg_(try_)?advisory_|pg_logical_emit_message$|pg_stat_(get_(?!xact_)|have_))'
    OR f.proname ~ '^pg_(relation|table|indexes|total_relation|database|tablespace)_size$')
UNION ALL
SELECT c.oid::regclass::text, 'SELECT' FROM pg_class AS c, aclexplode(c.relacl) AS a
WHERE c.relnamespace = 'pg_catalog'::regnamespace AND a.grantee = 0 AND a.privilege_type = 'SELECT' AND c.relname IN (
    'pg_roles', 'pg_user', 'pg_group', 'pg_auth_members', 'pg_database', 'pg_db_role_setting', 'pg_shdepend',
    'pg_shdescription', 'pg_shseclabel', 'pg_largeobject_metadata', 'pg_class')
ORDER BY 1
"""
_SHOWN = 5

# Logins of tenants and their agents are the members of the groups, at any depth, and those of a silo are known by their
# names; the groups are judged with them, and every group whose privileges they have. A login of agents is in a group
# for agents, and no other login is; the role that deletes its rows is in that of erasers. The driver, its granter and
# its creators of logins are members that cannot use it: nobody can log in as one of the latter two.
LOGINS = """
WITH RECURSIVE expected (member, "group") AS (
    VALUES ('^a_[0-9a-f]{32}$|_agents_[a-p]{6}(_[0-9]+)?$', '_agents_[a-p]{6}(_[0-9]+)?$'),
           ('^a_[0-9a-f]{32}_rows$', '_erasers$'),
           ('^(?!a_[0-9a-f]{32})(?!.*_agents_[a-p]{6}(_[0-9]+)?$)', '_(members|writers)(_[0-9]+)?$')
), members (oid) AS (
    SELECT oid FROM pg_roles WHERE rolname ~ $1
    UNION SELECT m.member FROM pg_auth_members AS m JOIN members ON members.oid = m.roleid
    WHERE m.roleid <> current_user::regrole
), granted (oid) AS (
    SELECT oid FROM members
    UNION SELECT m.roleid FROM pg_auth_members AS m JOIN granted ON granted.oid = m.member
    JOIN pg_roles AS g ON g.oid = m.roleid AND g.rolname = ANY($2::text[]) WHERE m.inherit_option OR m.set_option
)
SELECT r.rolname::text AS name, r.rolsuper AS superuser, r.rolbypassrls AS bypassrls,
       r.rolreplication AS replication, r.rolcreaterole AS createrole, r.rolcreatedb AS createdb,
       ARRAY(SELECT g.rolname::text FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
             WHERE m.member = r.oid AND (g.rolname <> ALL($2::text[]) OR m.set_option OR m.admin_option OR NOT EXISTS (
                 SELECT FROM expected AS e WHERE r.rolname ~ e.member AND g.rolname ~ e."group"))
             ORDER BY 1) AS memberships
FROM granted JOIN pg_roles AS r USING (oid)
WHERE r.rolname <> current_user
AND NOT ((r.rolname = current_user || '_granter' OR starts_with(r.rolname::text, current_user || '_creator_'))
         AND NOT (r.rolcanlogin OR r.rolsuper OR r.rolbypassrls OR r.rolreplication OR r.rolcreatedb))
AND (
    r.rolsuper OR r.rolbypassrls OR r.rolreplication OR r.rolcreaterole OR r.rolcreatedb OR EXISTS (
        SELECT FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
        WHERE m.member = r.oid AND (g.rolname <> ALL($2::text[]) OR m.set_option OR m.admin_option OR NOT EXISTS (
                 SELECT FROM expected AS e WHERE r.rolname ~ e.member AND g.rolname ~ e."group"))))
"""
_GROUP = "(members|writers|erasers|agents_[a-p]{6})(_[0-9]+)?"
_ALL_GROUPS = "SELECT ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname ~ $1)"

_PRIVILEGED = {
    "superuser": "SUPERUSER",
    "bypassrls": "BYPASSRLS",
    "replication": "REPLICATION",
    "createrole": "CREATEROLE",
    "createdb": "CREATEDB",
}
_OWNER_OF_PUBLIC = "pg_database_owner"


async def breaches(
    connection: Connection, isolation: Isolation, database: str, rights: RightsByBlueprint
) -> list[Breach]:
    """Returns the guarantees that do not hold in the connected database. rights: those that agents' logins may have."""
    found = list(_of_tables(isolation, await connection.fetch(TABLES)))
    if isolation is not Isolation.SILO:
        found += await _of_objects(connection)
    if isolation is Isolation.POOL and (rights_of_public := await connection.fetch(PUBLIC_RIGHTS)):
        named = ", ".join(f"{each['privilege']} on {each['object']}" for each in rights_of_public[:_SHOWN])
        shown = f"PUBLIC has {len(rights_of_public)} rights that a pool withdraws: {named}; start the stack again"
        found.append(_breach(Guarantee.PUBLIC, "pg_catalog", shown))
    grants = [*await connection.fetch(GRANTS), *await connection.fetch(SYSTEM_GRANTS)]
    found += _of_grants(ExpectedGrants(isolation, database, rights), grants)
    known = await connection.fetchval(_ALL_GROUPS, f"^(pool|bridge)_.*_{_GROUP}$")
    pattern = f"^[at]_{number_of_silo(database)}" if isolation is Isolation.SILO else f"^{database}_{_GROUP}$"
    found += _of_logins(await connection.fetch(LOGINS, pattern, known))
    return found


async def _of_objects(connection: Connection) -> list[Breach]:
    """Returns objects through which a tenant could read its neighbours' rows; a silo has no neighbours."""
    found = [
        _breach(Guarantee.VIEWS, view["name"], f"a {view['kind']} of {view['owner']}")
        for view in await connection.fetch(VIEWS)
    ]
    for function in await connection.fetch(FUNCTIONS):
        runs_as = "runs as its owner" if function["as_owner"] else "is owned by"
        found.append(_breach(Guarantee.FUNCTIONS, function["name"], f"a function that {runs_as} {function['owner']}"))
    found += [
        _breach(Guarantee.FUNCTIONS, trigger["name"], f"a trigger that runs {trigger['function']}")
        for trigger in await connection.fetch(TRIGGERS)
    ]
    found += [
        _breach(Guarantee.PUBLICATIONS, each["name"], f"a publication of {each['owner']}")
        for each in await connection.fetch(PUBLICATIONS)
    ]
    return found


def _of_tables(isolation: Isolation, tables: list[Any]) -> Iterator[Breach]:
    for table in tables:
        is_actions = table["name"] == ACTIONS
        if isolation is not Isolation.POOL and not is_actions:
            continue
        if not (table["enabled"] and table["forced"]):
            state = "enabled and not forced" if table["enabled"] else "disabled"
            yield _breach(Guarantee.ROW_LEVEL_SECURITY, table["name"], f"row-level security is {state}")
        policies = table["policies"]
        is_ours = has_actions_policy(policies) if is_actions else len(policies) == 1 and is_our_policy(policies[0])
        if not is_ours:
            expression = ACTIONS_POLICY_EXPRESSION if is_actions else POLICY_EXPRESSION
            expected = f"{POLICY} USING and WITH CHECK {expression}"
            shown = "; ".join(f"{each[0]} USING {each[4]} WITH CHECK {each[5]}" for each in policies) or "no policy"
            # A text is cut at its end, and what has to be there must not be lost behind many policies.
            yield _breach(Guarantee.POLICY, table["name"], f"{shown[:200]}; expected is only {expected}")


def _of_grants(expected: ExpectedGrants, grants: list[Any]) -> Iterator[Breach]:
    owners: dict[str, str] = {}
    entries: dict[tuple[str, str], set[str]] = {}
    for each in grants:
        if each["foreign"] and each["grantee"] != _OWNER_OF_PUBLIC and each["owner"] != _OWNER_OF_PUBLIC:
            owners[each["object"]] = each["owner"]
        elif each["grantee"] in {each["owner"], _OWNER_OF_PUBLIC}:
            continue
        if each["to_public"] or each["grantable"] or not expected.include(each):
            name = "PUBLIC" if each["to_public"] else each["grantee"].strip('"')
            option = " WITH GRANT OPTION" if each["grantable"] else ""
            entries.setdefault((each["object"], name), set()).add(each["privilege"] + option)
    for object_, owner in sorted(owners.items()):
        yield _breach(Guarantee.GRANTS, object_, f"it is owned by {owner}")
    for (object_, grantee), privileges in sorted(entries.items()):
        guarantee = Guarantee.PUBLIC if grantee == "PUBLIC" else Guarantee.GRANTS
        yield _breach(guarantee, object_, f"{grantee} has {', '.join(sorted(privileges))}")


def _of_logins(logins: list[Any]) -> Iterator[Breach]:
    for each in logins:
        found = [text for name, text in _PRIVILEGED.items() if each[name]]
        found += [f"membership in {group}" for group in each["memberships"]]
        yield _breach(Guarantee.LOGINS, each["name"], f"it has {', '.join(found)}")


def _breach(guarantee: Guarantee, object_: str, found: str) -> Breach:
    return Breach(guarantee=guarantee, object=_text(object_), found=_text(found))


def _text(value: str) -> str:
    return "".join(each if each.isprintable() else " " for each in value)[:500]
