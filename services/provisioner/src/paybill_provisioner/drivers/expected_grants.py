"""Grants that the driver makes in a database of tenants: every other one is a breach of isolation."""

import re
from typing import Any

from paybill_contracts.agent_bundles import TableRights
from paybill_contracts.placement import Isolation

from paybill_provisioner.domain.agent_rights import RightsByBlueprint
from paybill_provisioner.drivers.namespaces import ACTIONS, AGENT_SCHEMA, agents_group, erasers_group, groups

_WRITES = frozenset({"INSERT", "UPDATE", "DELETE"})
_OWN_SCHEMA = re.compile(r"t_[0-9a-f]{32}")
_AGENTS = re.compile(r"a_[0-9a-f]{32}")
_NUMBER_LENGTH = 32


def number_of_silo(database: str) -> str:
    """Returns the number of the tenant of a silo: its database is `silo_<number>`, with a suffix if it has several."""
    return database.removeprefix("silo_")[:_NUMBER_LENGTH]


class ExpectedGrants:
    """Grants in one database. rights: those that agents' logins may have on tenants' tables, by blueprint."""

    def __init__(self, isolation: Isolation, database: str, rights: RightsByBlueprint) -> None:
        self._isolation = isolation
        self._database = database
        self._agents_group = re.compile(rf"{re.escape(database)}_agents_[a-p]{{6}}")
        self._of_group = {agents_group(database, blueprint): _allowed(each) for blueprint, each in rights.items()}
        self._of_logins = frozenset[tuple[str, str]]().union(*self._of_group.values())

    def include(self, grant: Any) -> bool:
        """Returns whether the driver makes this grant: an entry of an access list."""
        grantee: str = grant["grantee"].strip('"')
        kind: str = grant["kind"]
        schema: str = grant["schema"]
        privilege: str = grant["privilege"]
        if schema == AGENT_SCHEMA:
            return self._of_actions(kind, grant["object"], grantee, privilege)
        if self._agents_group.fullmatch(grantee):
            return self._of_agents_group(kind, grant["object"], grantee, schema, privilege)
        if _AGENTS.fullmatch(grantee):
            return self._of_agents(kind, grant["object"], grantee, schema, privilege)
        return self._of_tenants(kind, grantee, schema, privilege)

    def _of_actions(self, kind: str, object_: str, grantee: str, privilege: str) -> bool:
        """Returns whether it is a grant on the table of agents' actions, or on its schema."""
        if kind == "table" and object_ != ACTIONS:
            return False
        if self._isolation is Isolation.SILO:
            is_agents = grantee == f"a_{number_of_silo(self._database)}"
        else:
            is_agents = self._agents_group.fullmatch(grantee) is not None
            if grantee == erasers_group(self._database):
                return (kind, privilege) in {("schema", "USAGE"), ("table", "SELECT"), ("table", "DELETE")}
        return is_agents and (kind, privilege) in {("schema", "USAGE"), ("table", "SELECT"), ("table", "INSERT")}

    def _of_agents_group(self, kind: str, object_: str, group: str, schema: str, privilege: str) -> bool:
        if kind == "database":
            return privilege == "CONNECT"
        if self._isolation is not Isolation.POOL:
            return False
        if kind == "schema":
            return privilege == "USAGE" and schema != "public"
        return (_unqualified(object_), privilege) in self._of_group.get(group, frozenset())

    def _of_agents(self, kind: str, object_: str, login: str, schema: str, privilege: str) -> bool:
        """Returns whether it is a grant to a login of agents itself: in a bridge or in a silo."""
        number = login.removeprefix("a_")
        if self._isolation is Isolation.SILO:
            is_own = number == number_of_silo(self._database) and schema != "public"
        else:
            own = _OWN_SCHEMA.match(schema)
            is_own = self._isolation is Isolation.BRIDGE and own is not None and own[0] == f"t_{number}"
        if not is_own:
            return False
        if kind == "database":
            return privilege == "CONNECT"
        if kind == "schema":
            return privilege == "USAGE"
        return (_unqualified(object_), privilege) in self._of_logins

    def _of_tenants(self, kind: str, grantee: str, schema: str, privilege: str) -> bool:
        """Returns whether it is a grant to tenants' own logins or to their groups."""
        if self._isolation is not Isolation.POOL:
            return self._of_own_login(kind, grantee, schema, privilege)
        all_tenants, *writers = groups(self._isolation, self._database)
        if kind == "database":
            return grantee == all_tenants and privilege == "CONNECT"
        if kind == "schema":
            return grantee == all_tenants and privilege == "USAGE" and schema != "public"
        may_write = grantee in writers and privilege in _WRITES
        return kind == "table" and (may_write or (grantee == all_tenants and privilege == "SELECT"))

    def _of_own_login(self, kind: str, grantee: str, schema: str, privilege: str) -> bool:
        """Returns whether it is a grant to a tenant's own login on its own schema, or on its silo."""
        if self._isolation is Isolation.SILO:
            own = f"t_{number_of_silo(self._database)}"
            if kind == "database":
                return grantee.startswith(own) and privilege == "CONNECT"
            is_own = grantee.startswith(own) and schema != "public"
        else:
            if kind == "database":
                return grantee in groups(self._isolation, self._database) and privilege == "CONNECT"
            found = _OWN_SCHEMA.match(schema)
            is_own = found is not None and grantee.startswith(found[0])
        of_table = kind == "table" and privilege in {"SELECT", *_WRITES}
        return is_own and ((kind, privilege) == ("schema", "USAGE") or of_table)


def _allowed(rights: tuple[TableRights, ...]) -> frozenset[tuple[str, str]]:
    """Returns the names without schema, `table.column` or `table`, each with a privilege."""
    found = set[tuple[str, str]]()
    for each in rights:
        columns = {"SELECT": each.select, "INSERT": each.insert, "UPDATE": each.update}
        found |= {(f"{each.table}.{name}", privilege) for privilege, names in columns.items() for name in names}
        found |= {(each.table, "DELETE")} if each.delete else set()
    return frozenset(found)


def _unqualified(object_: str) -> str:
    """Returns the name of a table or column without its schema; no name of a blueprint has a dot."""
    return object_.partition(".")[2]
