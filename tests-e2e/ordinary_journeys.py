"""Journeys of tenants through the handlers of two services in memory: virtual time, random delays, no servers."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from random import Random
from typing import Any

from blueprint_sample import BLUEPRINT, OUTPUTS
from paybill_contracts.billing import (
    AccessState,
    AccountRegistered,
    EntitlementsSet,
    Subscription,
    SubscriptionActivated,
    SubscriptionEnded,
    SubscriptionGraceStarted,
    SubscriptionRecovered,
    SubscriptionSuspended,
)
from paybill_contracts.catalogue import PlanRef
from paybill_contracts.environment_plans import EnvironmentPlanned
from paybill_contracts.event import Event
from paybill_contracts.money import Money
from paybill_contracts.personal import Personal
from paybill_contracts.placement import Preset
from paybill_contracts.provisioner import AccessChangeStarted, Export, RestorationStarted, RetentionStarted
from paybill_contracts.tenant import Source, SuspensionMode, TenantRequested
from paybill_provisioner import app as provisioner_app
from paybill_provisioner.domain import access, building
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID
from paybill_provisioner.domain.environments import id_of
from paybill_provisioner.tables import BLUEPRINTS, CELL_KEYS, ENVIRONMENTS, record, record_cells
from paybill_runtime.app import Service
from paybill_runtime.decisions.aggregates import Key
from paybill_runtime.decisions.unit_of_work import Loaded, UnitOfWork, decision_context
from paybill_tenant import app as tenant_app
from paybill_tenant.domain import holds, offboarding
from paybill_tenant.domain.policies import POLICY, LifecyclePolicy
from paybill_tenant.tables import POLICIES, TENANTS

START = datetime(2026, 11, 1, tzinfo=UTC)
TOLERANCE = timedelta(seconds=60)
HASH = "ab" * 32
DAY_S = 86_400
EXPORT = Export(location="exports/x.jsonl.gz", sha256=HASH, size_bytes=10, rows=1)

Action = Callable[[], None]


class MemoryService:
    """The states of a service, and its handlers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.stored = {stored.kind: stored for stored in service.states}
        self.states: dict[Key, tuple[Any, int]] = {}

    def decide(
        self, writes: list[Key], reads: list[Key], decide: Callable[[UnitOfWork], None], now: datetime
    ) -> list[Event]:
        """Runs a decision, and returns the facts that it recorded."""
        unit = UnitOfWork(now)
        for key in (*reads, *writes):
            state, revision = self.states.get(key, (None, 0))
            unit.states[key] = Loaded(self.stored[key.kind], state, revision, revision, writable=key in writes)
        decide(unit)
        for key, loaded in unit.states.items():
            self.states[key] = loaded.state, loaded.revision
        return [fact.event for fact in unit.facts]

    def handle(self, event: Event, now: datetime) -> list[Event]:
        """Handles a fact of another service, if the service subscribes to it."""
        handler = self.service.subscriptions.fact_handlers.get(event.TYPE)
        if handler is None:
            return []
        context = decision_context(now, "journey")
        writes, reads = list(handler.writes(event)), list(handler.reads(event))
        return self.decide(writes, reads, lambda unit: handler.handle(unit, event, context), now)


@dataclass
class Journey:
    """One tenant's journey. violations: invariants that did not hold for longer than the tolerance."""

    random: Random
    id: str
    now: datetime = START
    violations: list[str] = field(default_factory=list)
    tenant: MemoryService = field(init=False)
    provisioner: MemoryService = field(init=False)
    _queue: list[tuple[datetime, int, Action]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=count)
    _since: dict[tuple[str, int], datetime] = field(default_factory=dict)
    _last: dict[str, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Starts with a policy and a blueprint."""
        self.tenant, self.provisioner = MemoryService(tenant_app.service()), MemoryService(provisioner_app.service())
        policy = LifecyclePolicy(id=POLICY, offboarding_delay_s=15 * 60, signup_valid_s=30 * DAY_S)
        self.tenant.states[POLICIES.key(POLICY)] = policy, 1
        self.provisioner.states[BLUEPRINTS.key(BLUEPRINT_ID)] = BLUEPRINT, 1
        self.provisioner.decide([*CELL_KEYS], [BLUEPRINTS.key(BLUEPRINT_ID)], record_cells, self.now)

    def at(self, delay_s: float, action: Action) -> None:
        """Runs an action later."""
        heapq.heappush(self._queue, (self.now + timedelta(seconds=delay_s), next(self._number), action))

    def run(self) -> None:
        """Runs all actions in the order of their times, and checks the invariants before and after each."""
        while self._queue:
            self.now, _, action = heapq.heappop(self._queue)
            self._check()
            action()
            self._check()

    def differences(self) -> dict[tuple[str, int], str]:
        """Returns the differences of all invariants now, by owner and number."""
        found = {}
        for memory in (self.tenant, self.provisioner):
            invariants = memory.service.invariants
            assert invariants is not None
            states = [memory.states.get(key, (None, 0))[0] for key in invariants.keys(self.id)]
            for number, each in invariants.differences(states, self.now).items():
                found[memory.service.name, number] = f"{each.left}, and {each.right}"
        return found

    def _check(self) -> None:
        found = self.differences()
        self._since = {key: self._since.get(key, self.now) for key in found}
        for key, text in found.items():
            if self.now - self._since[key] >= TOLERANCE:
                self.violations.append(f"{key} since {self._since[key]}: {text}")

    def publish(self, source: str, *events: Event) -> None:
        """Delivers facts to both services after random delays, in order, and runs what they require."""
        for event in events:
            self._effect(event)
            for memory in (self.tenant, self.provisioner):
                if memory.service.name == source:
                    continue
                route = f"{source}/{memory.service.name}"
                due = max(self.now + timedelta(seconds=self.random.uniform(0.01, 8)), self._last.get(route, START))
                self._last[route] = due
                self.at((due - self.now).total_seconds(), self._delivery(memory, event))

    def _delivery(self, memory: MemoryService, event: Event) -> Action:
        return lambda: self._published(memory.service.name, memory.handle(event, self.now))

    def _published(self, source: str, events: list[Event]) -> None:
        self.publish(source, *events)
        if source == "tenant":
            state = self.tenant.states[TENANTS.key(self.id)][0]
            if events and state.due is not None:
                delay_s = max((state.due - self.now).total_seconds(), 0) + self.random.uniform(0, 5)
                self.at(delay_s, lambda: self.decide_tenant(lambda tenant: offboarding.on_time(tenant, self.now)))

    def decide_tenant(self, decide: Callable[[Any], Any]) -> None:
        """Runs a decision of the tenant service."""
        key = TENANTS.key(self.id)

        def decided(unit: UnitOfWork) -> None:
            unit.record(TENANTS, self.id, decide(unit.get(TENANTS, self.id)))

        self._published("tenant", self.tenant.decide([key], [], decided, self.now))

    def _effect(self, event: Event) -> None:
        """Runs the effect that a fact of the provisioner requires, after the time that the driver needs."""
        match event:
            case EnvironmentPlanned(plan_hash=plan_hash):
                progress = building.Progress(built=dict(OUTPUTS))
                self._after_driver(partial(building.progress_recorded, plan_hash=plan_hash, progress=progress))
            case AccessChangeStarted(access=target):
                self._after_driver(partial(access.access_changed, access=target))
            case RetentionStarted():
                self._after_driver(partial(access.retained, export=EXPORT))
            case RestorationStarted():
                self._after_driver(lambda state: access.restored(state, state.target_access))
            case _:
                return

    def _after_driver(self, outcome: Callable[[Any], Any]) -> None:
        id_ = id_of(self.id)

        def decide(unit: UnitOfWork) -> None:
            record(unit, id_, outcome(unit.get(ENVIRONMENTS, id_)))

        def run() -> None:
            self._published(
                "provisioner", self.provisioner.decide([ENVIRONMENTS.key(id_), *CELL_KEYS], [], decide, self.now)
            )

        self.at(self.random.uniform(0.1, 50), run)


class Billing:
    """The facts that billing publishes about one customer."""

    def __init__(self, journey: Journey) -> None:
        self._journey = journey
        self._revision = 0
        self.tier = "starter"

    def registered(self) -> None:
        """Registers the account."""
        email = Personal[str](key=f"billing/{self._journey.id}", sealed="A" * 60)
        names = {"plan": "starter", "plan_version": 1, "provider": "stripe", "name": "Acme", "contact_email": email}
        self._journey.publish("billing", AccountRegistered(tenant_id=self._journey.id, retention_s=30 * DAY_S, **names))

    def activated(self) -> None:
        """The customer pays."""
        self._publish(SubscriptionActivated, AccessState.ACTIVE, allows=True)

    def grace(self) -> None:
        """A renewal fails."""
        self._publish(SubscriptionGraceStarted, AccessState.GRACE, allows=True)

    def suspended(self) -> None:
        """The grace period ends."""
        self._publish(SubscriptionSuspended, AccessState.SUSPENDED, allows=False)

    def recovered(self) -> None:
        """The debt is paid."""
        self._publish(SubscriptionRecovered, AccessState.ACTIVE, allows=True)

    def ended(self) -> None:
        """The subscription ends."""
        self._publish(SubscriptionEnded, AccessState.ENDED, allows=False, retention_s=30 * DAY_S)

    def changed(self, tier: str) -> None:
        """The plan changes."""
        self.tier = tier
        self._journey.publish("billing", self._entitlements(allows=True))

    def _publish(self, kind: Any, state: AccessState, *, allows: bool, **more: Any) -> None:
        id_ = self._journey.id
        subscription = Subscription(
            subscription_id=f"sub_{id_[4:]}",
            tenant_id=id_,
            provider="stripe",
            provider_subscription="sub_1",
            provider_status="active",
            access=state,
            plan=PlanRef(plan=self.tier, version=1, catalogue_hash=HASH),
            quantity=1,
            price=Money(minor=2500, currency="EUR"),
            period_start=None,
            period_end=None,
            cancel_at=None,
            grace_until=None,
        )
        fact = kind(tenant_id=id_, subscription_id=subscription.subscription_id, subscription=subscription, **more)
        self._journey.publish("billing", fact, self._entitlements(allows=allows))

    def _entitlements(self, *, allows: bool) -> EntitlementsSet:
        self._revision += 1
        return EntitlementsSet(
            tenant_id=self._journey.id,
            subscription_id=f"sub_{self._journey.id[4:]}",
            plan=PlanRef(plan=self.tier, version=1, catalogue_hash=HASH),
            tier=self.tier,
            placement=Preset.POOLED,
            features=(),
            allows_access=allows,
            entitlements_hash=HASH,
            set_revision=self._revision,
        )


def ordinary_journey(seed: int) -> Journey:
    """Returns the journey of one tenant: sign-up, payment, changes, debts, holds, and perhaps its end and return."""
    journey = Journey(Random(seed), f"ten_{seed:032x}")
    billing, random = Billing(journey), journey.random
    valid_until = START + timedelta(days=30)
    requested = TenantRequested(
        tenant_id=journey.id,
        slug=f"t{seed}",
        name="Acme",
        plan="starter",
        region="eu-central",
        contact_email=Personal[str](key=f"tenant/{journey.id}", sealed="A" * 60),
        source=Source.API,
        valid_until=valid_until,
    )
    journey.at(0, lambda: journey.decide_tenant(lambda _: [requested]))
    journey.at(9, billing.registered)
    at_s = random.uniform(60, 2 * DAY_S)
    if random.random() < 0.95:
        journey.at(at_s, billing.activated)
        for _ in range(random.randrange(5)):
            at_s = _chapter(journey, billing, at_s + random.uniform(3600, 3 * DAY_S))
    journey.run()
    return journey


def _chapter(journey: Journey, billing: Billing, at_s: float) -> float:
    """Adds one part of a journey; returns the time at which it ends."""
    random = journey.random
    pause_s = random.uniform(60, DAY_S)
    match random.choice(["debt", "plan", "hold", "replace", "return"]):
        case "debt":
            journey.at(at_s, billing.grace)
            journey.at(at_s + pause_s, billing.suspended)
            journey.at(at_s + 2 * pause_s, billing.recovered)
            return at_s + 2 * pause_s
        case "plan":
            tier = random.choice(["starter", "business"])
            journey.at(at_s, lambda: billing.changed(tier))
            return at_s
        case "hold":
            mode = random.choice(list(SuspensionMode))
            journey.at(at_s, lambda: journey.decide_tenant(lambda tenant: holds.suspend(tenant, mode, "abuse")))
            journey.at(at_s + pause_s, lambda: journey.decide_tenant(holds.resume))
            return at_s + pause_s
        case "replace":
            journey.at(at_s, billing.ended)
            journey.at(at_s + random.uniform(1, 600), billing.activated)
            return at_s + 600
        case _:
            journey.at(at_s, billing.ended)
            journey.at(at_s + DAY_S, billing.activated)
            return at_s + DAY_S
