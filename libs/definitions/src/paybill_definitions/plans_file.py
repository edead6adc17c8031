"""Reads plans.yaml, the catalogue in its source form, and reports every error by file, line and reason."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from paybill_contracts.catalogue import (
    Aggregation,
    BooleanFeature,
    Catalogue,
    Feature,
    Interval,
    LimitFeature,
    Meter,
    MeteredFeature,
    PlanVersion,
    Price,
    StaticFeature,
    Window,
)
from paybill_contracts.errors import DomainError
from paybill_contracts.event import canonical
from paybill_contracts.inputs import PlainText
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.values import Key, ProviderId
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from paybill_definitions.definition_file import MAX_CONTENT_BYTES
from paybill_definitions.durations import SECONDS, Span, at_most
from paybill_definitions.overage import OverageInput, errors
from paybill_definitions.price_rules import objection
from paybill_definitions.yaml_lines import Diagnostic, InvalidDocumentError, Lines, M, read, report

_FEATURE: TypeAdapter[Feature] = TypeAdapter(Feature)
_FILE_FIELDS = {
    "trial_days": "trial",
    "grace_s": "grace",
    "retention_s": "retention",
    "lateness_s": "lateness",
    "by_period": "window",
    "overage": "features",
}

Tiers = Collection[tuple[str, Preset]]
"""Tiers that can be built, each with a placement that the blueprint has for it."""


class PlansError(DomainError):
    """The file is no valid catalogue. The message has one line for each error: `<file>:<line>: <reason>`."""

    code = "invalid_plans"


@dataclass(frozen=True, slots=True)
class CatalogueDiagnostic:
    """Reason why a well-formed catalogue cannot be published. name: of a plan version, `pro@2`, or of a meter."""

    name: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plans:
    """A catalogue and the lines of its parts in the file."""

    content: Catalogue
    file: str
    lines: Mapping[tuple[str, str], int]

    def report(self, diagnostics: Iterable[CatalogueDiagnostic]) -> list[str]:
        """Returns `<file>:<line>: <reason>` for each."""
        return report(self.file, [Diagnostic(self._line(item), item.reason) for item in diagnostics])

    def _line(self, diagnostic: CatalogueDiagnostic) -> int:
        field = _FILE_FIELDS.get(diagnostic.field, diagnostic.field)
        return self.lines.get((diagnostic.name, field), self.lines.get((diagnostic.name, ""), 1))


class _StrictInput(BaseModel):
    """Refuses unknown names, because people mistype them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Price(_StrictInput):
    """`minor` is in minor units: 2900 is 29.00 EUR."""

    minor: Annotated[int, Field(strict=True, ge=0, le=10**15)]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    interval: Interval
    provider_prices: dict[Key, ProviderId] = {}


class PauseBehaviour(StrEnum):
    """Invoices while the collection of payments is paused, as Stripe names it."""

    VOID = "void"
    KEEP_AS_DRAFT = "keep_as_draft"
    MARK_UNCOLLECTIBLE = "mark_uncollectible"


class BooleanInput(BooleanFeature):
    model_config = _StrictInput.model_config


class StaticInput(StaticFeature):
    model_config = _StrictInput.model_config

    value: PlainText


class LimitInput(LimitFeature):
    model_config = _StrictInput.model_config


class MeteredInput(MeteredFeature):
    model_config = _StrictInput.model_config


FeatureInput = Annotated[BooleanInput | StaticInput | LimitInput | MeteredInput, Field(discriminator="kind")]
"""A feature in a file or a request: an unknown name in it is refused, not ignored."""


class _PlanMetered(MeteredInput):
    """A metered feature of a plan. overage: the prices of usage beyond `included`; none when it is not charged."""

    overage: Annotated[list[OverageInput], Field(default_factory=list, max_length=100)]


_PlanFeature = Annotated[BooleanInput | StaticInput | LimitInput | _PlanMetered, Field(discriminator="kind")]


class MeterWindow(StrEnum):
    """The windows of a meter: those of a catalogue, and the billing period of each subscription."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    PERIOD = "period"


class _Meter(_StrictInput):
    meter: Key
    aggregation: Aggregation = Aggregation.SUM
    window: MeterWindow = MeterWindow.MONTH
    lateness: Annotated[Span, at_most(35)] = 3 * 86_400
    provider_meters: dict[Key, ProviderId] = {}


class _Plan(_StrictInput):
    plan: Key
    version: Annotated[int, Field(strict=True, ge=1, le=10**6)]
    name: PlainText
    tier: Key
    placement: Preset
    trial: Annotated[Span, at_most(730)] = 0
    trial_without_card: Annotated[bool, Field(strict=True)] = False
    grace: Annotated[Span, at_most(365)]
    retention: Annotated[Span, at_most(3650)]
    access_while_paused: list[PauseBehaviour] = [PauseBehaviour.KEEP_AS_DRAFT, PauseBehaviour.MARK_UNCOLLECTIBLE]
    features: Annotated[list[_PlanFeature], Field(max_length=200)]
    prices: Annotated[list[_Price], Field(min_length=1)]


class _File(_StrictInput):
    product: Key
    meters: Annotated[list[_Meter], Field(max_length=200)] = []
    plans: Annotated[list[_Plan], Field(min_length=1, max_length=1000)]


class _Tier(BaseModel):
    tier: Key
    placement: Preset


class _BlueprintFile(BaseModel):
    """Part of a blueprint that plans refer to; the provisioner checks the rest."""

    tiers: Annotated[list[_Tier], Field(min_length=1)]


def read_plans(text: str, name: str) -> Plans:
    """Returns the catalogue in `text`, the content of the file `name`. Raises PlansError."""
    file, lines = _read(_File, text, name)
    diagnostics = list(_inconsistencies(file, lines))
    if diagnostics:
        raise PlansError("\n".join(report(name, diagnostics)))
    content = Catalogue(
        product=file.product,
        plans=tuple(_version(plan) for plan in file.plans),
        meters=tuple(_meter(meter) for meter in file.meters),
    )
    size = len(canonical(content.model_dump(mode="json")))
    if size > MAX_CONTENT_BYTES:
        raise PlansError(
            f"{name}:1: the catalogue has {size} bytes as an event, at most {MAX_CONTENT_BYTES}; retire some plans"
        )
    return Plans(content=content, file=name, lines=_line_index(content, lines))


def to_feature(feature: FeatureInput) -> Feature:
    """Converts validated input to a catalogue feature."""
    return _FEATURE.validate_python(feature.model_dump())


def read_tiers(text: str, name: str) -> frozenset[tuple[str, Preset]]:
    """Returns the tiers of the blueprint in `text`, the content of the file `name`. Raises PlansError."""
    blueprint, _ = _read(_BlueprintFile, text, name)
    return frozenset((each.tier, each.placement) for each in blueprint.tiers)


def unknown_tiers(content: Catalogue, tiers: Tiers) -> list[CatalogueDiagnostic]:
    """Returns an error for each plan version whose tier and placement the blueprint does not have."""
    known = ", ".join(sorted(f"{tier} ({placement})" for tier, placement in tiers)) or "none"
    return [
        CatalogueDiagnostic(
            version_name(plan),
            "tier",
            f"{version_name(plan)} needs the tier {plan.tier} ({plan.placement}), which the blueprint does not have; "
            f"it has {known}",
        )
        for plan in content.plans
        if (plan.tier, plan.placement) not in tiers
    ]


def version_name(plan: PlanVersion) -> str:
    """Returns the name of a plan version for people: `pro@2`."""
    return f"{plan.plan}@{plan.version}"


def _read(model: type[M], text: str, name: str) -> tuple[M, Lines]:
    try:
        return read(model, text)
    except InvalidDocumentError as error:
        raise PlansError("\n".join(report(name, error.diagnostics))) from None


def _line_index(content: Catalogue, lines: Lines) -> dict[tuple[str, str], int]:
    """Returns the line of each plan version and meter by its name, and of each of their fields."""
    names = {("plans", index): version_name(plan) for index, plan in enumerate(content.plans)}
    names |= {("meters", index): meter.meter for index, meter in enumerate(content.meters)}
    index_of = {}
    for path, line in lines.items():
        match path:
            case (str(part), int(index)):
                index_of[names[part, index], ""] = line
            case (str(part), int(index), str(field)):
                index_of[names[part, index], field] = line
    return index_of


def _meter(meter: _Meter) -> Meter:
    return Meter(
        meter=meter.meter,
        aggregation=meter.aggregation,
        window=Window.MONTH if meter.window is MeterWindow.PERIOD else Window(meter.window),
        by_period=meter.window is MeterWindow.PERIOD,
        lateness_s=meter.lateness,
        provider_meters=meter.provider_meters,
    )


def _version(plan: _Plan) -> PlanVersion:
    return PlanVersion(
        plan=plan.plan,
        version=plan.version,
        name=plan.name,
        tier=plan.tier,
        placement=plan.placement,
        trial_days=plan.trial // SECONDS["d"],
        grace_s=plan.grace,
        retention_s=plan.retention,
        features=tuple(_FEATURE.validate_python(each.model_dump(exclude={"overage"})) for each in plan.features),
        prices=tuple(
            Price(
                amount=Money(minor=price.minor, currency=price.currency),
                interval=price.interval,
                provider_prices=price.provider_prices,
            )
            for price in plan.prices
        ),
        access_while_paused=tuple(sorted(set(plan.access_while_paused))),
        trial_without_card=plan.trial_without_card,
        overage=tuple(
            price.price_of(feature.key)
            for feature in plan.features
            if isinstance(feature, _PlanMetered)
            for price in feature.overage
        ),
    )


def _inconsistencies(file: _File, lines: Lines) -> Iterator[Diagnostic]:
    """Finds values that are valid alone and not together."""
    declared = [meter.meter for meter in file.meters]
    for index, name in _repeated(declared):
        yield Diagnostic(lines["meters", index], f"the meter {name} is written twice")
    provider_meters = [
        (index, f"{provider} {name}")
        for index, meter in enumerate(file.meters)
        for provider, name in meter.provider_meters.items()
    ]
    for position, name in _repeated([name for _, name in provider_meters]):
        yield Diagnostic(lines["meters", provider_meters[position][0]], f"{name} is the meter of two meters")
    for index, name in _repeated([f"{plan.plan} version {plan.version}" for plan in file.plans]):
        yield Diagnostic(lines["plans", index], f"{name} is written twice")
    for index, plan in enumerate(file.plans):
        path = ("plans", index)
        for position, key in _repeated([feature.key for feature in plan.features]):
            yield Diagnostic(lines[*path, "features", position], f"the feature {key} is written twice")
        for position, feature in enumerate(plan.features):
            if isinstance(feature, _PlanMetered):
                yield from _metered(feature, declared, lines[*path, "features", position])
                yield from _overage(file, plan, feature, lines[*path, "features", position])
        for position, name in _repeated([f"{price.interval}ly price in {price.currency}" for price in plan.prices]):
            yield Diagnostic(lines[*path, "prices", position], f"the {name} is written twice")
        for position, price in enumerate(plan.prices):
            reason = objection(Money(minor=price.minor, currency=price.currency), price.provider_prices)
            if reason is not None:
                yield Diagnostic(lines[*path, "prices", position], reason)
        if plan.trial % SECONDS["d"]:
            yield Diagnostic(lines[*path, "trial"], "a trial is in whole days")
        if plan.trial_without_card and not plan.trial:
            yield Diagnostic(
                lines[*path, "trial_without_card"], "the plan has no trial: write `trial: 14d`, or remove this"
            )
    ids = [
        (lines["plans", index, part, position], f"{provider} {price_id}")
        for index, plan in enumerate(file.plans)
        for part, position, prices in _provider_prices(plan)
        for provider, price_id in prices.items()
    ]
    for repeated, name in _repeated([name for _, name in ids]):
        yield Diagnostic(ids[repeated][0], f"{name} is the price of two plans")


def _provider_prices(plan: _Plan) -> Iterator[tuple[str, int, Mapping[str, str]]]:
    """Yields the providers' prices of a plan and of its overage, each with its place in the file."""
    for position, price in enumerate(plan.prices):
        yield "prices", position, price.provider_prices
    for position, feature in enumerate(plan.features):
        if isinstance(feature, _PlanMetered):
            for overage in feature.overage:
                yield "features", position, overage.provider_prices


def _overage(file: _File, plan: _Plan, feature: _PlanMetered, line: int) -> Iterator[Diagnostic]:
    sold = {(price.currency, price.interval) for price in plan.prices}
    providers = {name for meter in file.meters if meter.meter == feature.meter for name in meter.provider_meters}
    for reason in errors(feature.key, feature.overage, sold, providers):
        yield Diagnostic(line, reason)
    charged = [
        each.key
        for each in plan.features
        if isinstance(each, _PlanMetered) and each.overage and each is not feature and each.meter == feature.meter
    ]
    if feature.overage and charged:
        yield Diagnostic(line, f"{feature.key} and {charged[0]} would charge the same usage of {feature.meter} twice")


def _metered(feature: MeteredFeature, declared: Collection[str], line: int) -> Iterator[Diagnostic]:
    if feature.meter not in declared:
        known = ", ".join(declared) or "none"
        yield Diagnostic(line, f"the meter {feature.meter} is not declared under `meters`; declared: {known}")
    if feature.quota is not None and feature.quota < feature.included:
        yield Diagnostic(line, f"the quota of {feature.key} is less than what is included")


def _repeated(names: list[str]) -> Iterator[tuple[int, str]]:
    """Returns the position and name of every occurrence after the first."""
    counts: Counter[str] = Counter()
    for index, name in enumerate(names):
        counts[name] += 1
        if counts[name] > 1:
            yield index, name
