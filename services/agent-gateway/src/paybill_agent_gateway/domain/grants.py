"""Grants, compiled once for each bundle: the decision about a row in Python, and the same as a condition of SQL.

Everything that is not permitted is denied. A forbid has priority over every permit, and an error denies: a permit that
errors does not apply, and a forbid that errors does.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from paybill_contracts.agent_bundles import Bundle, Effect, Grant, Verb
from paybill_contracts.agent_expressions import Condition
from paybill_definitions.agent_conditions import names

from paybill_agent_gateway.domain.closures import Predicate, Row
from paybill_agent_gateway.domain.conditions import (
    Columns,
    Parameters,
    Scope,
    conjuncts,
    predicate,
    sql,
)

PERMITTED = "permitted"
NO_PERMIT = "no_permit"
COLUMNS_NOT_PERMITTED = "columns_not_permitted"
ROW_NOT_PERMITTED = "row_not_permitted"
FORBIDDEN = "forbidden"
FORBID_FAILED = "forbid_failed"


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about one call. grants: ids of the permits that apply, or of the forbids that deny; rule: the reason.

    no_permit: no permit of the role is about this verb and resource. columns_not_permitted: no permit contains every
    column. row_not_permitted: no condition is true. forbid_failed: the condition of a forbid is an error.
    """

    allowed: bool
    grants: tuple[str, ...]
    rule: str


@dataclass(frozen=True, slots=True)
class RowCondition:
    """Condition of the rows that a call may read or change: one of the permits, and none of the forbids.

    grants: ids of the permits. It denies every row without one.
    """

    columns: Columns
    permits: tuple[Condition | None, ...]
    forbids: tuple[Condition | None, ...]
    grants: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """Columns that the conditions name: the statement needs the right to read them."""
        return frozenset[str]().union(*(names(each) for each in (*self.permits, *self.forbids) if each))

    def sql(self, at: Callable[[str], str], parameters: Parameters) -> str:
        """Returns the condition as SQL that is TRUE for permitted rows alone, and FALSE or NULL for others.

        at: SQL of a column.
        Conjuncts stand alone at the top, where they can use an index.
        """
        scope = Scope(self.columns, at, parameters)
        if not self.permits or None in self.forbids:
            return "FALSE"
        parts = [f"{sql(each, scope)} IS FALSE" for each in self.forbids if each]
        if None not in self.permits:
            permits = [" AND ".join(sql(part, scope) for part in conjuncts(each)) for each in self.permits if each]
            parts.append(" OR ".join(f"({each})" for each in permits))
        return " AND ".join(f"({each})" for each in parts) or "TRUE"


@dataclass(frozen=True, slots=True)
class _Permit:
    id: str
    columns: frozenset[str]
    condition: Condition | None
    predicate: Predicate | None


@dataclass(frozen=True, slots=True)
class _Forbid:
    id: str
    condition: Condition | None
    predicate: Predicate | None


@dataclass(frozen=True, slots=True)
class _Rules:
    """Grants of one role for one verb on one resource."""

    permits: tuple[_Permit, ...]
    forbids: tuple[_Forbid, ...]


_NONE = _Rules((), ())


@dataclass(frozen=True, slots=True)
class CompiledGrants:
    """The grants of a bundle by role, verb and resource."""

    _columns: Mapping[str, Columns]
    _rules: Mapping[tuple[str | None, Verb, str], _Rules]

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Compiles the grants of a bundle. Raises ConditionError."""
        columns = {each.name: {column.name: column for column in each.columns} for each in bundle.resources}
        roles = {grant.role for grant in bundle.grants} | {workflow.role for workflow in bundle.workflows} | {None}
        compiled = [(grant, _compiled(grant, columns)) for grant in bundle.grants]
        rules = {
            (role, verb, resource): _rules_of(compiled, role, verb, resource)
            for role in roles
            for verb in Verb
            for resource in columns
        }
        return cls(columns, rules)

    def decide(self, role: str, verb: Verb, resource: str, columns: frozenset[str], row: Row) -> Decision:
        """Decides about a call that names these columns, on one row: as it is for read and delete, else as it will be.

        row: a value or None for every column of the resource.
        """
        rules = self._of(role, verb, resource)
        for forbid in rules.forbids:
            applies = True if forbid.predicate is None else forbid.predicate(row)
            if applies is not False:
                return Decision(False, (forbid.id,), FORBIDDEN if applies else FORBID_FAILED)  # noqa: FBT003  # a field
        found = tuple(
            [
                permit.id
                for permit in rules.permits
                if columns <= permit.columns and (permit.predicate is None or permit.predicate(row))
            ]
        )
        if found:
            return Decision(True, found, PERMITTED)  # noqa: FBT003  # a field
        return Decision(False, (), _denial(rules, columns))  # noqa: FBT003  # a field

    def decide_any(self, role: str, verb: Verb, resource: str, columns: frozenset[str]) -> Decision:
        """Decides whether the call is permitted on any row at all; the statement decides about each row."""
        rules = self._of(role, verb, resource)
        always = next((each.id for each in rules.forbids if each.condition is None), None)
        if always is not None:
            return Decision(False, (always,), FORBIDDEN)  # noqa: FBT003  # a field
        found = tuple(permit.id for permit in rules.permits if columns <= permit.columns)
        return Decision(bool(found), found, PERMITTED if found else _denial(rules, columns))

    def row_condition(self, role: str, verb: Verb, resource: str, columns: frozenset[str]) -> RowCondition:
        """Returns the condition of the rows for a statement that names these columns."""
        rules = self._of(role, verb, resource)
        permits = [permit for permit in rules.permits if columns <= permit.columns]
        return RowCondition(
            columns=self._columns.get(resource, {}),
            permits=tuple(each.condition for each in permits),
            forbids=tuple(each.condition for each in rules.forbids),
            grants=tuple(each.id for each in permits),
        )

    def readable(self, role: str, resource: str, *, in_every_row: bool = False) -> frozenset[str]:
        """Returns the columns that the role may read in some row of the resource, which are never hidden ones."""
        rules = self._of(role, Verb.READ, resource)
        if any(in_every_row or each.condition is None for each in rules.forbids):
            return frozenset()
        permits = [each for each in rules.permits if each.condition is None or not in_every_row]
        return frozenset[str]().union(*(permit.columns for permit in permits))

    def readable_fields(self, role: str, resource: str, row: Row, earlier: Self | None) -> frozenset[str]:
        """Returns the fields of a stored row that the role may read, each by a permit of its own.

        row: fields of a row, perhaps not all. A condition on another field holds only if `earlier`, the grants under
        which the row was read, have the same one; an error denies.
        """
        rules = self._of(role, Verb.READ, resource)
        before = _NONE if earlier is None else earlier._of(role, Verb.READ, resource)  # noqa: SLF001  # the same class
        for forbid in rules.forbids:
            if forbid.predicate is None or forbid.condition is None:
                return frozenset()
            if names(forbid.condition) <= row.keys():
                if forbid.predicate(row) is not False:
                    return frozenset()
            elif all(each.condition != forbid.condition for each in before.forbids):
                return frozenset()
        found: set[str] = set()
        for permit in rules.permits:
            if permit.predicate is None or permit.condition is None:
                found |= permit.columns
            elif names(permit.condition) <= row.keys():
                found |= permit.columns if permit.predicate(row) else set()
            else:
                same = [each.columns for each in before.permits if each.condition == permit.condition]
                found |= permit.columns & frozenset[str]().union(*same)
        return frozenset(found & row.keys())

    def _of(self, role: str, verb: Verb, resource: str) -> _Rules:
        found = self._rules.get((role, verb, resource))
        return self._rules.get((None, verb, resource), _NONE) if found is None else found


def _denial(rules: _Rules, columns: frozenset[str]) -> str:
    if not rules.permits:
        return NO_PERMIT
    return ROW_NOT_PERMITTED if any(columns <= permit.columns for permit in rules.permits) else COLUMNS_NOT_PERMITTED


def _compiled(grant: Grant, columns: Mapping[str, Columns]) -> dict[str, _Permit | _Forbid]:
    found: dict[str, _Permit | _Forbid] = {}
    for resource in grant.resources:
        condition = grant.condition
        test = None if condition is None else predicate(condition, columns[resource])
        if grant.effect is Effect.PERMIT:
            found[resource] = _Permit(grant.id, frozenset(grant.columns.get(resource, ())), condition, test)
        else:
            found[resource] = _Forbid(grant.id, condition, test)
    return found


def _rules_of(
    compiled: Iterable[tuple[Grant, dict[str, _Permit | _Forbid]]], role: str | None, verb: Verb, resource: str
) -> _Rules:
    applying = [
        by_resource[resource]
        for grant, by_resource in compiled
        if grant.role in {None, role} and verb in grant.verbs and resource in by_resource
    ]
    return _Rules(
        tuple(each for each in applying if isinstance(each, _Permit)),
        tuple(each for each in applying if isinstance(each, _Forbid)),
    )
