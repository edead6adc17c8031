"""Runs of workflows by plain values alone: every decision is that of the gateway, and rows are made up."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway_samples import ENABLED, TENANT
from paybill_agent_gateway.domain import approvals, runs
from paybill_agent_gateway.domain.agents import Agent
from paybill_agent_gateway.domain.answers import Answer, PlainFields, RefusalError, refusal
from paybill_agent_gateway.domain.approvals import Image, Preview
from paybill_agent_gateway.domain.bundles import BundleInForce
from paybill_agent_gateway.domain.calls import Call, CallCaller, Start, Take
from paybill_agent_gateway.domain.decision import decide
from paybill_agent_gateway.domain.freezes import Freezes
from paybill_agent_gateway.domain.outcomes import settle
from paybill_agent_gateway.domain.runs import Run, RunEvent
from paybill_agent_gateway.domain.scenes import (
    BundleNeed,
    ConnectionNeed,
    DayNeed,
    Found,
    MissingError,
    Need,
    RowsNeed,
    RunNeed,
    Scene,
)
from paybill_agent_gateway.domain.steps import Intended
from paybill_agent_gateway.domain.tenants import TenantAccess
from paybill_agent_gateway.domain.workflows import CompiledBundle
from paybill_contracts.agent_access import AgentConnection
from paybill_contracts.agent_bundles import CreateStep, DeleteStep, ReadStep, ResourceColumn, UpdateStep
from paybill_contracts.agent_tenants import AgentTenantStatus
from paybill_contracts.envelope import Origin
from paybill_contracts.environment_plans import Connection
from paybill_contracts.errors import DomainError
from paybill_contracts.placement import Preset

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
PERSON = CallCaller(TENANT, "user:ann")
HELPER = CallCaller(TENANT, f"agent:agt_{'1' * 32}", f"agt_{'1' * 32}", "clerk")
AGENT = Agent(f"agt_{'1' * 32}", TENANT, "helper", "clerk", "key-1", "user:ann", NOW, NOW + timedelta(days=1))
Values = Callable[[ResourceColumn], Any]
"""Returns a value of a column."""
_TIME = "2026-05-05T05:05:05Z"
_VALUES: dict[str, tuple[Any, ...]] = {
    "text": ("a", "b", ""),
    "integer": (0, 1, 5),
    "bigint": (0, 1, 2**40),
    "boolean": (True, False),
    "date": ("2026-05-05", "2026-06-06"),
    "timestamptz": (_TIME, "2026-06-06T00:00:00Z"),
    "uuid": ("01234567-89ab-cdef-0123-456789abcdef",),
    "numeric": ("1.50",),
    "jsonb": ("{}",),
    "bytea": ("\\x00",),
}


def random_values(rng: random.Random) -> Values:
    """Returns a source of values; three in ten of a nullable column are NULL."""
    return lambda column: None if column.nullable and rng.random() < 0.3 else rng.choice(_VALUES[column.type])


@dataclass
class Walk:
    """One tenant, whose rows are made up at each statement, and the run that it has. bundles: the last is in force."""

    bundle: CompiledBundle
    values: Values
    run: Run | None = None
    events: list[RunEvent] = field(default_factory=list)
    images: dict[RowsNeed, Image] = field(default_factory=dict)

    def approve(self, approval_id: str) -> None:
        """Lets another person approve a call."""
        assert self.run is not None
        subject = approvals.find(self.run, approval_id).subject_hash
        self._record(approvals.grant(self.run, approval_id, subject, "user:bob", NOW))

    def call(self, caller: CallCaller, request: Start | Take) -> Answer | RefusalError:
        """Decides about a call, and commits its facts. Raises whatever is no refusal."""
        call, found = Call(caller, request, Origin("test", "test", caller.subject, "")), Found()
        run_id, day_id = self.run.id if self.run is not None and isinstance(request, Take) else None, None
        while True:
            scene = Scene(
                now=NOW,
                agents={caller.agent_id: AGENT} if caller.agent_id is not None else {},
                tenant=_tenant(self.bundle.bundle.blueprint.name),
                freezes=Freezes(),
                blueprint=self.bundle.bundle.blueprint.name,
                in_force=BundleInForce(self.bundle.bundle.blueprint.name, self.bundle.hash, (), "user:ann", NOW),
                run_id=run_id,
                run=self.run if self.run is not None and self.run.id == run_id else None,
                day_id=day_id,
            )
            try:
                verdict = decide(scene, call, found)
            except DomainError as error:
                return refusal(error)
            except MissingError as missing:
                match missing.need:
                    case RunNeed():
                        run_id = missing.need.run_id
                    case DayNeed():
                        day_id = missing.need.day_id
                    case need:
                        found.results[need] = self._result(need)
                continue
            self._record(verdict.events)
            if not isinstance(verdict.outcome, Intended):
                return verdict.outcome
            answer = self._settled(verdict.outcome.need, found)
            if answer is not None:
                return answer

    def _settled(self, need: RowsNeed, found: Found) -> Answer | RefusalError | None:
        """Settles a write that changes one row."""
        image = self._image(need)
        assert self.run is not None
        events, answer = settle(self.run, need, Preview((image,), ""), found, NOW)
        self._record(events)
        return answer

    def _record(self, events: Any) -> None:
        for event in events:
            self.run = runs.evolve(self.run, event)
            self.events.append(event)

    def _result(self, need: Need) -> Any:
        match need:
            case BundleNeed():
                return self.bundle
            case ConnectionNeed():
                return None
            case RowsNeed(step=ReadStep() as step):
                row = self._row(need)
                return () if None in dict(need.values).values() else ({name: row[name] for name in step.columns},)
            case RowsNeed():
                return Preview((self._image(need),), "0" * 64)
            case _:
                raise AssertionError(f"nothing fulfils {need}")

    def _row(self, need: RowsNeed) -> PlainFields:
        """Returns a row that a statement finds."""
        row = {each.name: self.values(each) for each in need.resource.columns}
        return row | {name.removeprefix("where."): value for name, value in need.values if name.startswith("where.")}

    def _image(self, need: RowsNeed) -> Image:
        """Returns the row of a write, which is the same for the preview and for the write itself."""
        if need not in self.images:
            given = {name.removeprefix("set."): value for name, value in need.values if name.startswith("set.")}
            row = self._row(need)
            self.images[need] = {
                CreateStep: Image(None, dict.fromkeys(row) | given),
                DeleteStep: Image(row, None),
                UpdateStep: Image(row, row | given),
            }[type(need.step)]
        return self.images[need]


def _tenant(blueprint: str) -> TenantAccess:
    login = Connection(
        address="role.agents", host="db", port=5432, database="pool", schema_name="product", username="a_1",
    )  # fmt: skip
    agents = AgentConnection(connection=login, blueprint=blueprint, preset=Preset.POOLED, epoch=1)
    return TenantAccess(
        TENANT,
        "acme",
        AgentTenantStatus.RUNNING,
        allows_access=True,
        feature=ENABLED,
        agents=agents,
        epoch=1,
        is_open=True,
    )
