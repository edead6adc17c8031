"""Scenes: the states on which a call is decided, and what a decision needs from outside before it can be made.

A decision is a pure function. Where it needs rows, a sealed value or a bundle that nobody has fetched yet, it raises
MissingError; it is made again with the result. So a decision about rows holds only for exactly the statement and the
states from which it follows.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.agent_bundles import AgentResource, ResourceColumn, Scalar, UpdateStep
from paybill_contracts.agent_runs import Fields
from paybill_contracts.event import canonical
from paybill_contracts.personal import MAX_SEALED_BYTES, Personal

from paybill_agent_gateway.domain.agents import Agent
from paybill_agent_gateway.domain.answers import PlainFields
from paybill_agent_gateway.domain.approvals import Preview
from paybill_agent_gateway.domain.budgets import Day
from paybill_agent_gateway.domain.bundles import BundleInForce
from paybill_agent_gateway.domain.freezes import Freezes
from paybill_agent_gateway.domain.grants import RowCondition
from paybill_agent_gateway.domain.refusals import RowsTooLargeError, by_database
from paybill_agent_gateway.domain.runs import Run
from paybill_agent_gateway.domain.tenants import TenantAccess
from paybill_agent_gateway.domain.workflows import CompiledBundle, RowStep, named


@dataclass(frozen=True, slots=True)
class Scene:
    """States of one call. blueprint, run_id, day_id: of the states that are loaded; None for a state that is not.

    agents: by their ids, the caller and another one that the call depends on.
    earlier: days of the month before `day`, by their ids, which a metered entitlement counts.
    """

    now: datetime
    agents: Mapping[str, Agent | None]
    tenant: TenantAccess | None
    freezes: Freezes | None
    blueprint: str | None = None
    in_force: BundleInForce | None = None
    run_id: str | None = None
    run: Run | None = None
    day_id: str | None = None
    day: Day | None = None
    earlier: Mapping[str, Day | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BundleNeed:
    """The content of a bundle."""

    content_hash: str


@dataclass(frozen=True, slots=True)
class RunNeed:
    """The state of another run: the one that the call is about."""

    run_id: str


@dataclass(frozen=True, slots=True)
class AgentNeed:
    """The state of another agent: the one that requested the approval of the call."""

    agent_id: str


@dataclass(frozen=True, slots=True)
class BlueprintNeed:
    """The bundle in force for another blueprint: the tenant's own."""

    blueprint: str


@dataclass(frozen=True, slots=True)
class DayNeed:
    """The states of other days of the tenant: today, and the earlier ones that count."""

    day_id: str
    earlier_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectionNeed:
    """A usable connection to the tenant's database, before an intent is recorded."""

    tenant_id: str
    epoch: int
    endpoint: AgentConnection = field(compare=False)


@dataclass(frozen=True, slots=True)
class SealNeed:
    """A sealed form of a text, for a tenant's fact."""

    tenant_id: str
    text: str


@dataclass(frozen=True, slots=True)
class OpenNeed:
    """The value in a sealed field."""

    key: str
    sealed: str


@dataclass(frozen=True, slots=True)
class RowsNeed:
    """Rows of a statement: read, or the preview of a write. Equal ones are the same statement with the same values.

    identity: of the step and of the grants in force. values: by the names of the statement's parameters. key: of the
    action, run, seq and digest of the call. rows_left: of all tables, that the run may still change or read. shown:
    columns that are returned in addition. readable: columns that the role may read in every row.
    """

    identity: tuple[str, ...]
    values: tuple[tuple[str, Scalar | None], ...]
    key: tuple[str, int, str]
    epoch: int
    rows_left: int
    step: RowStep = field(compare=False)
    resource: AgentResource = field(compare=False)
    condition: RowCondition = field(compare=False)
    shown: tuple[str, ...] = field(compare=False)
    readable: frozenset[str] = field(compare=False)
    endpoint: AgentConnection = field(compare=False)

    @property
    def answered(self) -> tuple[str, ...]:
        """Columns that the caller gets of a written row, in the order of the resource."""
        key = {self.resource.columns[0].name} if isinstance(self.step, UpdateStep) else set[str]()
        return tuple(each.name for each in self.resource.columns if each.name in named(self.step) | key)


StateNeed = RunNeed | AgentNeed | BlueprintNeed | DayNeed
Need = StateNeed | BundleNeed | ConnectionNeed | SealNeed | OpenNeed | RowsNeed


class MissingError(Exception):
    """A decision needs something from outside first."""

    def __init__(self, need: Need) -> None:
        super().__init__(type(need).__name__)
        self.need = need


@dataclass(slots=True)
class Found:
    """Results of needs."""

    results: dict[Hashable, Any] = field(default_factory=dict)

    def bundle(self, content_hash: str) -> CompiledBundle:
        """Returns a bundle. Raises MissingError."""
        found: CompiledBundle = self._of(BundleNeed(content_hash))
        return found

    def rows(self, need: RowsNeed) -> tuple[PlainFields, ...]:
        """Returns the rows of a read. Raises MissingError, or the refusal of the database."""
        found: tuple[PlainFields, ...] | str = self._of(need)
        if isinstance(found, str):
            raise by_database(found)
        return found

    def preview(self, need: RowsNeed) -> Preview:
        """Returns the rows that a write would change. Raises MissingError, or the refusal of the database."""
        found: Preview | str = self._of(need)
        if isinstance(found, str):
            raise by_database(found)
        return found

    def require_connection(self, need: ConnectionNeed) -> None:
        """Raises MissingError, or the refusal when no statement can be sent now."""
        code: str | None = self._of(need)
        if code is not None:
            raise by_database(code)

    def sealed(self, tenant_id: str, columns: Mapping[str, ResourceColumn], fields: PlainFields) -> Fields:
        """Returns fields as they are in facts. Raises MissingError, and RowsTooLargeError for a long personal value."""
        return {
            name: self._sealed(tenant_id, name, value)
            if value is not None and (column := columns.get(name.removeprefix("where-"))) and column.personal
            else value
            for name, value in fields.items()
        }

    def _sealed(self, tenant_id: str, name: str, value: Scalar) -> Personal[str]:
        text = canonical(value)
        if len(text) > MAX_SEALED_BYTES:
            raise RowsTooLargeError(
                f"the personal value of {name} has {len(text)} bytes; {MAX_SEALED_BYTES} can be sealed in a fact"
            )
        found: Personal[str] = self._of(SealNeed(tenant_id, text.decode()))
        return found

    def opened(self, fields: Fields) -> PlainFields:
        """Returns fields of a fact in plain text. Raises MissingError."""
        return {
            name: self._of(OpenNeed(value.key, value.sealed)) if isinstance(value, Personal) else value
            for name, value in fields.items()
        }

    def _of(self, need: Need) -> Any:
        if need not in self.results:
            raise MissingError(need)
        return self.results[need]
