"""A tenant, its four services and its provider in one process and in virtual time, with faults of webhooks."""

import heapq
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from itertools import count
from random import Random
from typing import Any

from blueprint_sample import CONTENT
from memory_billing import BillingContext
from memory_driver import MemoryDriver
from memory_services import EffectJob, MemoryService
from memory_stripe import KEY, MemoryStripe
from paybill_agent_gateway import app as agent_gateway_app
from paybill_billing import app as billing_app
from paybill_billing.catalogue.domain import catalogue
from paybill_billing.catalogue.tables import CATALOGUES
from paybill_billing.licences.effects import ExternalSystems
from paybill_billing.providers import domain as providers
from paybill_billing.providers.port import ProviderConnection
from paybill_billing.providers.stripe.inbound import StripeInbound, delivery_of
from paybill_billing.providers.stripe.provider import NAME, Stripe
from paybill_billing.providers.tables import PROVIDERS
from paybill_billing.reconciliation.jobs.runs import Reconciler
from paybill_billing.reconciliation.tables import RUNS, start_run
from paybill_billing.settings import Settings
from paybill_billing.statements.jobs import StatementChecks
from paybill_billing.subscriptions.jobs.subscription_checks import SubscriptionChecks
from paybill_billing.usage.domain import publishers
from paybill_billing.usage.jobs import WindowCloser
from paybill_billing.usage.tables import PUBLISHERS
from paybill_billing.webhooks.jobs import ProviderSync
from paybill_contracts.billing import PublisherGrant
from paybill_contracts.catalogue import Catalogue, Interval, Meter, MeteredFeature, OveragePrice, PlanVersion, Price
from paybill_contracts.envelope import Fact, IntakeEvent, Origin
from paybill_contracts.event import Event
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.usage import Usage
from paybill_provisioner import app as provisioner_app
from paybill_provisioner.domain import blueprints, policy
from paybill_provisioner.domain.blueprints import BLUEPRINT_ID
from paybill_provisioner.domain.policy import POLICY_ID
from paybill_provisioner.tables import BLUEPRINTS, CELL_KEYS, record_cells
from paybill_provisioner.tables import POLICY as PLAN_POLICY
from paybill_runtime.jobs.effects import DueJob
from paybill_tenant import app as tenant_app
from paybill_tenant.domain import policies
from paybill_tenant.domain.policies import POLICY
from paybill_tenant.tables import POLICIES, TENANTS

START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
"""On the last day of a month, so that periods have different lengths."""
TENANT = "ten_" + "1" * 32
DAY_S = 86_400
TOLERANCE = timedelta(seconds=60)
METER = "api_calls"
PUBLISHER = "metering"


OVERAGE = Money(minor=3, currency="EUR")
"""Price of a unit of usage beyond what is included."""


def _plan(name: str, tier: str, minor: int, trial_days: int = 0) -> PlanVersion:
    return PlanVersion(
        plan=name,
        version=1,
        name=name.title(),
        tier=tier,
        placement=Preset.POOLED,
        trial_days=trial_days,
        grace_s=7 * DAY_S,
        retention_s=30 * DAY_S,
        features=(MeteredFeature(kind="metered", key="calls", meter="calls", included=10),),
        prices=(Price(amount=Money(minor=minor, currency="EUR"), interval=Interval.MONTH, provider_prices={}),),
        overage=(OveragePrice(feature="calls", amount=OVERAGE, interval=Interval.MONTH),),
    )


CATALOGUE = Catalogue(
    product="shop",
    plans=(_plan("team", "starter", 2000), _plan("pro", "business", 4500), _plan("trial", "starter", 1500, 14)),
    meters=(Meter(meter="calls", lateness_s=3600, provider_meters={NAME: METER}),),
)
SUPPORT = "support"
"""Lookup key of a price that belongs to no plan."""


async def shop_at_stripe(stripe: MemoryStripe) -> Catalogue:
    """Creates the meter and the prices at Stripe; returns the catalogue, which names them.

    Only the first world of a process creates them by requests, which take a twentieth of a history.
    """
    if not _SHOP:
        created = await _create_shop(stripe)
        _SHOP.append((created, [each for kind in _SHOP_KINDS for each in stripe.all(kind)]))
    content, resources = _SHOP[0]
    stripe.begin(resources)
    return content


_SHOP_KINDS = ("billing.meter", "product", "price")
_SHOP: list[tuple[Catalogue, list[Any]]] = []


async def _create_shop(stripe: MemoryStripe) -> Catalogue:
    meter = await stripe.post(
        "/v1/billing/meters", display_name="Calls", event_name=METER, default_aggregation={"formula": "sum"}
    )
    product = (await stripe.post("/v1/products", name="Shop"))["id"]

    async def create(name: str, amount: Money, **recurring: str) -> dict[str, str]:
        about = {"currency": "eur", "unit_amount": amount.minor, "lookup_key": name, "product": product}
        price = await stripe.post("/v1/prices", **about, recurring={"interval": "month", **recurring})
        return {NAME: price["id"]}

    await create(SUPPORT, Money(minor=5000, currency="EUR"))
    metered = await create("calls", OVERAGE, usage_type="metered", meter=meter["id"])
    plans = []
    for plan in CATALOGUE.plans:
        sold = await create(plan.plan, plan.prices[0].amount)
        prices = (plan.prices[0].model_copy(update={"provider_prices": sold}),)
        overage = (plan.overage[0].model_copy(update={"provider_prices": metered}),)
        plans.append(plan.model_copy(update={"prices": prices, "overage": overage}))
    return CATALOGUE.model_copy(update={"plans": tuple(plans)})


SERVICES = (tenant_app.service(), billing_app.service(), provisioner_app.service(), agent_gateway_app.service())
Action = Callable[[], Awaitable[None] | None]


class Network(Enum):
    """The way of webhooks from the provider to billing. FAULTY: some are late, some arrive twice, and some never."""

    RELIABLE = auto()
    FAULTY = auto()
    DOWN = auto()


def _publish_first(unit: Any, _: Any) -> None:
    unit.record(PLAN_POLICY, POLICY_ID, policy.publish_first(None, provisioner_app.Settings.model_construct().policy()))
    unit.record(BLUEPRINTS, BLUEPRINT_ID, blueprints.publish_first(None, CONTENT))
    record_cells(unit)


class World:
    """One tenant with its services and its provider. random: decides delays and faults, set anew by each action."""

    def __init__(self, ids: str) -> None:
        self.now = START
        self.random = Random(ids)
        self.network = Network.FAULTY
        self.services = tuple(MemoryService(each, lambda: self.now) for each in SERVICES)
        self.tenant, self.billing, self.provisioner, self.agent_gateway = self.services
        self.stripe = MemoryStripe(START, ids)
        self.provider = Stripe(KEY, "http://stripe.invalid", "http://127.0.0.1/back", 1, self.stripe)
        self.context: Any = BillingContext(self.billing, Settings.model_construct())
        self.sync = ProviderSync(self.context, NAME, self.provider, StripeInbound(())).kind()
        self.reconciler = Reconciler(self.context, NAME, self.provider).kind()
        self.windows = WindowCloser(self.context)
        connections = {NAME: ProviderConnection(self.provider)}
        self.statements = StatementChecks(self.context, connections).kind()
        self.second = SubscriptionChecks(self.context, connections).kind()
        self.systems = {
            "billing": ExternalSystems({NAME: self.provider}, keys=None),  # type: ignore[arg-type]  # no licences
            "provisioner": {"local": MemoryDriver()},
        }
        self.lost: list[Any] = []
        self.refused = 0
        self.ended_by_customer: set[str] = set()
        self._queue: list[tuple[datetime, int, Action]] = []
        self._numbers = count()
        self._last: dict[tuple[str, str], datetime] = {}
        self.lasting: set[tuple[int, str]] = set()
        self._checked: dict[str, int] = {}
        self._since: dict[str, dict[int, datetime]] = {service.service.name: {} for service in self.services}
        for service in self.services:
            service.recorded = self._recorder(service)

    async def begin(self) -> None:
        """Publishes what the services publish at their start, and sets Stripe up."""
        content = await shop_at_stripe(self.stripe)
        self.billing.decide(
            lambda unit, _: unit.record(CATALOGUES, catalogue.CATALOGUE, catalogue.publish(None, content)),
            [CATALOGUES.key(catalogue.CATALOGUE)],
        )
        self.billing.decide(
            lambda unit, _: unit.record(PROVIDERS, providers.PROVIDERS, providers.configure(None, [NAME], NAME)),
            [PROVIDERS.key(providers.PROVIDERS)],
        )
        grants = [PublisherGrant(publisher=PUBLISHER, all_tenants=True, tenants=())]
        self.billing.decide(
            lambda unit, _: unit.record(PUBLISHERS, publishers.PUBLISHERS, publishers.allow(None, grants)),
            [PUBLISHERS.key(publishers.PUBLISHERS)],
        )
        self.provisioner.decide(_publish_first, [PLAN_POLICY.key(POLICY_ID), BLUEPRINTS.key(BLUEPRINT_ID), *CELL_KEYS])
        policy = policies.configure(None, offboarding_delay_s=15 * 60, signup_valid_s=30 * DAY_S)
        self.tenant.decide(lambda unit, _: unit.record(POLICIES, POLICY, policy), [POLICIES.key(POLICY)])
        await self.run_for(60)

    def at(self, delay_s: float, action: Action) -> None:
        """Runs an action later."""
        heapq.heappush(self._queue, (self.now + timedelta(seconds=delay_s), next(self._numbers), action))

    async def run_for(self, seconds: float) -> None:
        """Lets time pass: everything that falls due meanwhile happens."""
        until = self.now + timedelta(seconds=seconds)
        self.catch_up()  # webhooks of what an action has just done are sent now, not when something else is due
        while (found := self._next()) is not None and found[0] <= until:
            self.now = max(self.now, found[0])
            self.catch_up()
            await found[1]()
            self.catch_up()
            self._check()
        self.now = until
        self.catch_up()

    async def rest(self) -> None:
        """Lets everything be delivered that is on its way, and everything be done that is due."""
        self.network = Network.RELIABLE
        await self.run_for(8 * 3600)
        for _ in range(200):
            if not self._queue and not self._syncs_due():
                return
            await self.run_for(60)

    async def reconcile(self) -> None:
        """Compares all subscriptions with the provider, and repairs what differs."""
        run_id = f"rec_{next(self._numbers):032x}"
        await start_run(self.context, Origin("run", "run", "run", ""), run_id, NAME, repair=True, view=str)
        while any(run.status == "running" for run in self.billing.all(RUNS)):
            job = self.context.claim(self.reconciler.name, self.reconciler.name)
            await self.reconciler.run(job)
        await self.rest()

    async def poll(self) -> None:
        """Fetches the events that were never delivered."""
        lost, self.lost = self.lost, []
        for event in lost:
            self.receive(event)
        await self.rest()

    def use(self, quantity: int) -> None:
        """Publishes usage."""
        used = Usage(tenant_id=TENANT, meter="calls", quantity=quantity, occurred_at=self.now)
        handler = self.billing.service.subscriptions.intake_handlers[Usage.TYPE]
        submission = IntakeEvent(used, f"0190a5b0-0000-7000-8000-{next(self._numbers):012x}", PUBLISHER, self.now, "")
        self.billing.decide(
            lambda unit, at: handler.handle(unit, submission, at), list(handler.writes(used)), list(handler.reads(used))
        )

    def decide_tenant(self, decide: Callable[[Any], Sequence[Event]]) -> None:
        """Runs a decision of the tenant service about the tenant."""
        self.tenant.decide(
            lambda unit, _: unit.record(TENANTS, TENANT, decide(unit.get(TENANTS, TENANT))), [TENANTS.key(TENANT)]
        )

    def _check(self) -> None:
        """Notes invariants that did not hold for so long that a service would report them."""
        for service in self.services:
            name = service.service.name
            if self._checked.get(name) == service.changes:
                continue
            self._checked[name] = service.changes
            found, since = service.differences(TENANT), self._since[name]
            for number, at in since.items():
                if self.now - at >= TOLERANCE:
                    times = f"from {at:%m-%d %H:%M:%S} to {self.now:%m-%d %H:%M:%S}"
                    self.lasting.add((number, f"invariant {number} did not hold {times}"))
            self._since[name] = {number: since.get(number, self.now) for number in found}

    def _recorder(self, service: MemoryService) -> Callable[[Sequence[Fact], Sequence[EffectJob]], None]:
        def recorded(facts: Sequence[Fact], jobs: Sequence[EffectJob]) -> None:
            for fact in facts:
                self._publish(service, fact.event)
            if service is self.agent_gateway:  # its effects end agents and runs, and histories have none
                service.jobs.clear()
                return
            for job in jobs:
                self.at(self.random.uniform(0.05, 20), self._effect(service, job))

        return recorded

    def _publish(self, source: MemoryService, event: Event) -> None:
        """Delivers a fact to the services that subscribe to it, each in the order of the source, after a delay."""
        for target in self.services:
            if event.TYPE not in target.service.subscriptions.fact_handlers:
                continue
            if target is self.agent_gateway:  # no service depends on it: a delay would only change known histories
                target.handle(event)
                continue
            route = source.service.name, target.service.name
            due = max(self.now + timedelta(seconds=self.random.uniform(0.01, 8)), self._last.get(route, START))
            self._last[route] = due
            self.at((due - self.now).total_seconds(), lambda target=target: _done(target.handle(event)))

    def _effect(self, service: MemoryService, job: EffectJob) -> Action:
        async def run() -> None:
            again = 1.0 if service.is_blocked(job) else await service.attempt(job, self.systems[service.service.name])
            if again is not None:
                self.at(again, run)

        return run

    def _next(self) -> tuple[datetime, Action] | None:
        """Returns what happens next, and when."""
        found: list[tuple[datetime, Action]] = []
        if self._queue:
            found.append((self._queue[0][0], self._pop))
        for service in self.services:
            if (timer := service.next_timer()) is not None:
                due, rule, key = timer
                found.append((due, self._timer(service, rule, key)))
        if (at := self.stripe.next_due()) is not None:
            found.append((at, _nothing))
        if (job := min(self.context.syncs.values(), key=lambda job: job.due, default=None)) is not None:
            found.append((job.due, lambda: self.context.run(self.sync, job)))
        if (customer := min(self.context.checks, key=self.context.checks.get, default=None)) is not None:
            found.append((self.context.checks[customer], lambda: self.context.check(self.statements, customer)))
        if (tenant := min(self.context.second_checks, key=self.context.second_checks.get, default=None)) is not None:
            due = self.context.second_checks[tenant]
            found.append((due, lambda: self.context.check_second(self.second, tenant)))
        return min(found, key=lambda each: each[0], default=None)

    async def _pop(self) -> None:
        _, _, action = heapq.heappop(self._queue)
        if (waiting := action()) is not None:
            await waiting

    def _timer(self, service: MemoryService, timer: Any, key: Any) -> Action:
        async def run() -> None:
            if isinstance(timer, DueJob):
                await self.windows.close_due(self.now)
            else:
                service.fire(timer, key)

        return run

    def _syncs_due(self) -> bool:
        due = [*(job.due for job in self.context.syncs.values()), *self.context.checks.values()]
        return any(at <= self.now + timedelta(minutes=2) for at in due)

    def catch_up(self) -> None:
        """Lets Stripe's clock follow, and sends the webhooks of new events."""
        self.stripe.advance(self.now)
        # Events of one moment arrive together, so that one sync of an object serves them, as it mostly does.
        soon = self.random.uniform(0.5, 5)
        for event in self.stripe.new_events():
            delays = self._delays(soon)
            if not delays:
                self.lost.append(event)
            for delay_s in delays:
                self.at(delay_s, lambda event=event: _done(self.receive(event)))

    def _delays(self, soon: float) -> list[float]:
        """Returns the delay of each delivery of an event: one that is soon or late, two, or none."""
        match self.network:
            case Network.RELIABLE:
                return [soon]
            case Network.DOWN:
                return []
            case Network.FAULTY:
                late, again = self.random.uniform(60, 6 * 3600), soon + self.random.uniform(10, 3600)
                return self.random.choices([[soon], [late], [soon, again], []], [65, 15, 10, 10])[0]

    def receive(self, event: Any) -> None:
        """Delivers the webhook of an event."""
        self.context.receive(delivery_of(event, self.now), event)


async def _nothing() -> None:
    """Does nothing: Stripe's clock has done it."""


def _done(_: None) -> None:
    """Ends an action that awaits nothing."""
