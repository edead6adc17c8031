"""Estimates of a plan: cost by the price book, duration by earlier runs, risks by rules, and changed limits. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from paybill_contracts.environment_plans import Resource, Step, StepAction
from paybill_contracts.event import digest
from paybill_contracts.kinds import Role
from paybill_contracts.money import MAX_MINOR, Money
from paybill_contracts.plan_estimates import Estimates, LimitChange, MonthlyCost, PlanRunMeasured, Risk
from paybill_contracts.price_book import PriceBook, ResourcePrice
from paybill_contracts.table_rebuilds import InspectedTables

from paybill_provisioner.domain.rebuilding import rebuilt, risk_of
from paybill_provisioner.domain.steps import is_shared

PLAN_RUNS_ID = "main"
"""Id of the state with the durations of plans."""

MAX_RUNS = 20
"""Runs of plans with the same steps, of which the median is expected."""

MAX_SIGNATURES = 50
"""Kinds of plans whose durations are kept: those that ran last."""

PARTS = frozenset({"schema", "role"})
"""Kinds that are part of a database and have no price of their own."""

DATA_KINDS = frozenset({"database", "schema", "bucket"})
"""Kinds that hold the tenant's data."""

NO_PRICE_BOOK = "no price book is published"


@dataclass(frozen=True, slots=True)
class StepRuns:
    """Durations in ms of the last plans with the same steps, the latest at the end."""

    signature: str
    took_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlanRuns:
    """Durations of plans by their steps; those that ran last are at the end."""

    id: str
    runs: tuple[StepRuns, ...] = ()

    def of(self, signature: str) -> tuple[int, ...]:
        """Returns the durations of plans with these steps."""
        return next((each.took_ms for each in self.runs if each.signature == signature), ())


def evolve(known: PlanRuns | None, event: PlanRunMeasured) -> PlanRuns:
    """Returns the durations after `event`."""
    known = known or PlanRuns(event.plan_runs)
    others = tuple(each for each in known.runs if each.signature != event.signature)
    took_ms = (*known.of(event.signature), event.took_ms)[-MAX_RUNS:]
    return replace(known, runs=(*others, StepRuns(event.signature, took_ms))[-MAX_SIGNATURES:])


def signature(steps: Sequence[Step], cloud: str) -> str:
    """Returns a hash of what determines the duration: actions, kinds and isolation of the steps, and the cloud."""
    return digest(sorted([step.action, step.resource.kind, step.resource.isolation, cloud] for step in steps))


def expected_ms(runs: PlanRuns | None, steps: Sequence[Step], cloud: str) -> int | None:
    """Returns the median duration of the last plans with the same steps; None when there was none."""
    known = runs.of(signature(steps, cloud)) if runs and steps else ()
    return round(median(known)) if known else None


def estimates(
    steps: Sequence[Step],
    existing: Iterable[Resource],
    site: tuple[str, str],
    limits: tuple[Mapping[str, int], Mapping[str, int]],
    book: PriceBook | None,
    runs: PlanRuns | None,
    proration: Money | None = None,
    inspected: Mapping[str, InspectedTables] | None = None,
) -> Estimates:
    """Returns what is known about a plan before it is applied.

    existing: resources before it; site: cloud and region; limits: of the entitlements before and after. inspected:
    tables that it rebuilds, by the address of their schema.
    """
    before = tuple(existing)
    cloud, region = site
    return Estimates(
        cost=monthly_cost(used(before), used(resources_after(before, steps)), cloud, region, book),
        expected_ms=expected_ms(runs, steps, cloud),
        risks=(*risks(steps), *_rebuilds(steps, inspected or {})),
        limits=tuple(limit_changes(*limits)),
        proration=proration,
    )


def resources_after(existing: Iterable[Resource], steps: Iterable[Step]) -> tuple[Resource, ...]:
    """Returns the resources that exist when all steps are done."""
    found = {_key(each): each for each in existing}
    for step in steps:
        if step.before is not None:
            found.pop(_key(step.before), None)
        elif step.reason is not None:
            # Of a shared resource that is left, other tenants use the rest.
            found = {key: each for key, each in found.items() if each.address != step.address}
        if step.after is not None:
            found[_key(step.after)] = step.after
    return tuple(found.values())


def used(resources: tuple[Resource, ...]) -> tuple[Resource, ...]:
    """Returns the resources; none when tenants share all of them, because a purge leaves those of the other tenants."""
    return resources if any(not is_shared(each) for each in resources) else ()


def _key(resource: Resource) -> tuple[str, str, str]:
    """Returns what identifies a resource beside those that it replaced, and that still exist."""
    return resource.address, resource.kind, resource.identity


def monthly_cost(
    before: Iterable[Resource], after: Iterable[Resource], cloud: str, region: str, book: PriceBook | None
) -> MonthlyCost:
    """Returns the cost of a month before and after a plan; unknown, and never 0, when a price is missing."""
    if book is None:
        return MonthlyCost(missing=(NO_PRICE_BOOK,))
    missing: dict[str, None] = {}
    totals = [_total(resources, cloud, region, book, missing) for resources in (before, after)]
    return MonthlyCost(before=totals[0], after=totals[1], missing=tuple(missing)[:20])


def _total(
    resources: Iterable[Resource], cloud: str, region: str, book: PriceBook, missing: dict[str, None]
) -> Money | None:
    total, is_known = 0, True
    for resource in resources:
        amount = _amount(resource, cloud, region, book)
        if isinstance(amount, str):
            missing[amount] = None
            is_known = False
        else:
            total += amount
    return Money(minor=total, currency=book.currency) if is_known and total <= MAX_MINOR else None


def _amount(resource: Resource, cloud: str, region: str, book: PriceBook) -> int | str:
    """Returns the price of a resource for a month, or what has no price."""
    chosen: dict[str | None, ResourcePrice] = {}
    for price in book.prices:
        if _applies(price, resource, cloud, region):
            current = chosen.get(price.per)
            if current is None or _specific(price) > _specific(current):
                chosen[price.per] = price
    if not chosen:
        return 0 if resource.kind in PARTS else f"{resource.kind}, {cloud}"
    amount = 0
    for per, price in chosen.items():
        units = 1 if per is None else getattr(resource.attributes, per, None)
        if units is None:
            return f"{resource.kind}, {cloud}: its {per} is not set"
        amount += price.minor * units
    return amount


def _applies(price: ResourcePrice, resource: Resource, cloud: str, region: str) -> bool:
    size = getattr(resource.attributes, "size", None)
    return (
        (price.kind, price.cloud) == (resource.kind, cloud)
        and price.region in {None, region}
        and price.isolation in {None, resource.isolation}
        and price.size in {None, size}
    )


def _specific(price: ResourcePrice) -> tuple[int, bool, bool, bool]:
    named = (price.region is not None, price.isolation is not None, price.size is not None)
    return (sum(named), *named)


def limit_changes(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[LimitChange]:
    """Yields the limits of the entitlements that a plan changes."""
    for feature in sorted(before.keys() | after.keys()):
        if before.get(feature) != after.get(feature):
            yield LimitChange(feature=feature, before=before.get(feature), after=after.get(feature))


def risks(steps: Sequence[Step]) -> Iterator[Risk]:
    """Yields the risks of a plan, each by the rule that found it."""
    for rule, found in RISKS.items():
        if text := found(steps):
            yield Risk(rule=rule, text=text[:500])


def _rebuilds(steps: Iterable[Step], inspected: Mapping[str, InspectedTables]) -> Iterator[Risk]:
    for address in rebuilt(steps):
        if address in inspected:
            yield Risk(rule="rebuild_locks", text=risk_of(address, inspected[address])[:500])


def _names(steps: Iterable[Step]) -> str:
    return ", ".join(sorted({step.address for step in steps}))


def _replaced(steps: Sequence[Step]) -> set[str]:
    """Returns the addresses at which another resource takes the place of the old one."""
    return {step.address for step in steps if step.after is not None and step.reason is not None}


def _writes_pause(steps: Sequence[Step]) -> str:
    replaced = _replaced(steps)
    found = [step for step in steps if step.address in replaced and step.resource.kind in DATA_KINDS]
    return f"writes to {_names(found)} pause while the data is transferred" if found else ""


def _data_deleted(steps: Sequence[Step]) -> str:
    replaced = _replaced(steps)
    found = [
        step
        for step in steps
        if step.action is StepAction.DELETE
        and step.resource.kind in DATA_KINDS
        and step.address not in replaced
        and not is_shared(step.resource)
    ]
    return f"the data in {_names(found)} is deleted and cannot be restored" if found else ""


def _interrupted(steps: Sequence[Step]) -> str:
    replaced = _replaced(steps)
    found = [step for step in steps if step.address in replaced and step.resource.kind not in DATA_KINDS]
    return f"{_names(found)} is not available until the new one exists" if found else ""


def _fewer_connections(steps: Sequence[Step]) -> str:
    found = [
        f"{step.address}: {step.before.attributes.connection_limit} -> {step.after.attributes.connection_limit}"
        for step in steps
        if step.before is not None
        and step.after is not None
        and isinstance(step.before.attributes, Role)
        and isinstance(step.after.attributes, Role)
        and step.after.attributes.connection_limit < step.before.attributes.connection_limit
    ]
    return f"connections above the new limit are refused ({', '.join(found)})" if found else ""


def creates_empty(step: Step) -> bool:
    """Returns True for a step that creates a lost resource again, whose data stays lost."""
    return step.repairs and step.action is StepAction.CREATE and step.resource.kind in DATA_KINDS


def _created_empty(steps: Sequence[Step]) -> str:
    found = [step for step in steps if creates_empty(step)]
    return f"{_names(found)} is created again and empty: the data that was in it stays lost" if found else ""


RISKS: Mapping[str, Callable[[Sequence[Step]], str]] = {
    "data_deleted": _data_deleted,
    "created_empty": _created_empty,
    "writes_pause": _writes_pause,
    "replacement_interrupts": _interrupted,
    "fewer_connections": _fewer_connections,
}
"""Rules of risks by their id; each returns the risk of these steps, or an empty text."""
