"""Reads plans.yaml, the catalogue as people write it; every flaw is named by file, line and reason."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
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
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.values import Key, ProviderId, Text
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter

from paybill_definitions.lined_yaml import Diagnostic, InvalidDocumentError, Lines, M, read, report

MAX_CONTENT_BYTES = 480 * 1024
"""Of the catalogue as a fact, which must fit into one message."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_FEATURE: TypeAdapter[Feature] = TypeAdapter(Feature)
_AS_WRITTEN = {"trial_days": "trial", "grace_s": "grace", "retention_s": "retention", "lateness_s": "lateness"}

Tiers = Collection[tuple[str, Preset]]
"""What environments can be built of: each tier on each placement that the blueprint has it on."""


class PlansError(DomainError):
    """The file is no catalogue. The message has a line for each flaw: `<file>:<line>: <reason>`."""

    code = "invalid_plans"


@dataclass(frozen=True, slots=True)
class CatalogueDiagnostic:
    """Why a catalogue that is well written cannot be sold. name: of a plan version, `pro@2`, or of a meter."""

    name: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plans:
    """A catalogue and where in the file its parts stand."""

    content: Catalogue
    file: str
    lines: Mapping[tuple[str, str], int]

    def report(self, diagnostics: Iterable[CatalogueDiagnostic]) -> list[str]:
        """A line for each: `<file>:<line>: <reason>`."""
        return report(self.file, [Diagnostic(self._line(item), item.reason) for item in diagnostics])

    def _line(self, objection: CatalogueDiagnostic) -> int:
        written = _AS_WRITTEN.get(objection.field, objection.field)
        return self.lines.get((objection.name, written), self.lines.get((objection.name, ""), 1))


def _span(text: object) -> int:
    """Seconds in `90s`, `30m`, `12h` or `14d`."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("write a duration as 90s, 30m, 12h or 14d")
    return int(match[1]) * _SECONDS[match[2]]


Span = Annotated[int, BeforeValidator(_span), Field(ge=0)]


class _Written(BaseModel):
    """People mistype names, so a name that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Price(_Written):
    """`minor` is in minor units: 2900 is 29.00 EUR."""

    minor: Annotated[int, Field(strict=True, ge=0, le=10**15)]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    interval: Interval
    provider_prices: dict[Key, ProviderId] = {}


class WrittenBoolean(BooleanFeature):
    model_config = _Written.model_config


class WrittenStatic(StaticFeature):
    model_config = _Written.model_config


class WrittenLimit(LimitFeature):
    model_config = _Written.model_config


class WrittenMetered(MeteredFeature):
    model_config = _Written.model_config


FeatureInput = Annotated[WrittenBoolean | WrittenStatic | WrittenLimit | WrittenMetered, Field(discriminator="kind")]
"""A feature as people write it: a name in it that is not known is refused, not ignored."""


class _Meter(_Written):
    meter: Key
    aggregation: Aggregation = Aggregation.SUM
    window: Window = Window.MONTH
    lateness: Annotated[Span, Field(le=35 * 86_400)] = 3 * 86_400
    provider_meters: dict[Key, ProviderId] = {}


class _Plan(_Written):
    plan: Key
    version: Annotated[int, Field(strict=True, ge=1, le=10**6)]
    name: Text
    tier: Key
    placement: Preset
    trial: Annotated[Span, Field(le=730 * 86_400)] = 0
    grace: Annotated[Span, Field(le=365 * 86_400)]
    retention: Annotated[Span, Field(le=3650 * 86_400)]
    features: Annotated[list[FeatureInput], Field(max_length=200)]
    prices: Annotated[list[_Price], Field(min_length=1)]


class _File(_Written):
    product: Key
    meters: Annotated[list[_Meter], Field(max_length=200)] = []
    plans: Annotated[list[_Plan], Field(min_length=1, max_length=1000)]


class _Tier(BaseModel):
    tier: Key
    placement: Preset


class _BlueprintFile(BaseModel):
    """What of a blueprint concerns plans; the provisioner judges the rest."""

    tiers: Annotated[list[_Tier], Field(min_length=1)]


def read_plans(text: str, name: str) -> Plans:
    """The catalogue in `text`, the content of the file called `name`. Raises PlansError."""
    written, lines = _read(_File, text, name)
    flaws = list(_contradictions(written, lines))
    if flaws:
        raise PlansError("\n".join(report(name, flaws)))
    content = Catalogue(
        product=written.product,
        plans=tuple(_version(plan) for plan in written.plans),
        meters=tuple(_meter(meter) for meter in written.meters),
    )
    size = len(canonical(content.model_dump(mode="json")))
    if size > MAX_CONTENT_BYTES:
        raise PlansError(
            f"{name}:1: the catalogue has {size} bytes as a fact, at most {MAX_CONTENT_BYTES}; retire some"
        )
    return Plans(content=content, file=name, lines=_places(content, lines))


def to_feature(written: FeatureInput) -> Feature:
    """The feature that was written."""
    return _FEATURE.validate_python(written.model_dump())


def read_tiers(text: str, name: str) -> frozenset[tuple[str, Preset]]:
    """The tiers of the provisioner's blueprint in `text`, the content of the file called `name`. Raises PlansError."""
    written, _ = _read(_BlueprintFile, text, name)
    return frozenset((each.tier, each.placement) for each in written.tiers)


def unknown_tiers(content: Catalogue, tiers: Tiers) -> list[CatalogueDiagnostic]:
    """Plan versions that promise an environment which nobody can build."""
    known = ", ".join(sorted(f"{tier} ({placement})" for tier, placement in tiers)) or "none"
    return [
        CatalogueDiagnostic(
            version_name(plan),
            "tier",
            f"{version_name(plan)} wants the tier {plan.tier} ({plan.placement}), which the blueprint does not have; "
            f"it has {known}",
        )
        for plan in content.plans
        if (plan.tier, plan.placement) not in tiers
    ]


def version_name(plan: PlanVersion) -> str:
    """How people name a plan version: `pro@2`."""
    return f"{plan.plan}@{plan.version}"


def _read(model: type[M], text: str, name: str) -> tuple[M, Lines]:
    try:
        return read(model, text)
    except InvalidDocumentError as error:
        raise PlansError("\n".join(report(name, error.flaws))) from None


def _places(content: Catalogue, lines: Lines) -> dict[tuple[str, str], int]:
    """The line of each plan version and meter by its name, and of each of their fields."""
    names = {("plans", index): version_name(plan) for index, plan in enumerate(content.plans)}
    names |= {("meters", index): meter.meter for index, meter in enumerate(content.meters)}
    places = {}
    for path, line in lines.items():
        match path:
            case (str(part), int(index)):
                places[names[part, index], ""] = line
            case (str(part), int(index), str(field)):
                places[names[part, index], field] = line
    return places


def _meter(meter: _Meter) -> Meter:
    return Meter(
        meter=meter.meter,
        aggregation=meter.aggregation,
        window=meter.window,
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
        trial_days=plan.trial // _SECONDS["d"],
        grace_s=plan.grace,
        retention_s=plan.retention,
        features=tuple(map(to_feature, plan.features)),
        prices=tuple(
            Price(
                amount=Money(minor=price.minor, currency=price.currency),
                interval=price.interval,
                provider_prices=price.provider_prices,
            )
            for price in plan.prices
        ),
    )


def _contradictions(written: _File, lines: Lines) -> Iterator[Diagnostic]:
    """What each plan says well alone, and not together."""
    declared = [meter.meter for meter in written.meters]
    for index, name in _repeated(declared):
        yield Diagnostic(lines["meters", index], f"the meter {name} is written twice")
    theirs = [
        (index, f"{provider} {name}")
        for index, meter in enumerate(written.meters)
        for provider, name in meter.provider_meters.items()
    ]
    for place, name in _repeated([name for _, name in theirs]):
        yield Diagnostic(lines["meters", theirs[place][0]], f"{name} is the meter of two meters")
    for index, name in _repeated([f"{plan.plan} version {plan.version}" for plan in written.plans]):
        yield Diagnostic(lines["plans", index], f"{name} is written twice")
    for index, plan in enumerate(written.plans):
        path = ("plans", index)
        for place, key in _repeated([feature.key for feature in plan.features]):
            yield Diagnostic(lines[*path, "features", place], f"the feature {key} is written twice")
        for place, feature in enumerate(plan.features):
            if isinstance(feature, MeteredFeature):
                yield from _metered(feature, declared, lines[*path, "features", place])
        for price, name in _repeated([f"{price.interval}ly price in {price.currency}" for price in plan.prices]):
            yield Diagnostic(lines[*path, "prices", price], f"the {name} is written twice")
        if plan.trial % _SECONDS["d"]:
            yield Diagnostic(lines[*path, "trial"], "a trial is in whole days")
    ids = [
        (index, price, f"{provider} {price_id}")
        for index, plan in enumerate(written.plans)
        for price, written_price in enumerate(plan.prices)
        for provider, price_id in written_price.provider_prices.items()
    ]
    for place, name in _repeated([name for _, _, name in ids]):
        index, price, _ = ids[place]
        yield Diagnostic(lines["plans", index, "prices", price], f"{name} is the price of two plans")


def _metered(feature: MeteredFeature, declared: Collection[str], line: int) -> Iterator[Diagnostic]:
    if feature.meter not in declared:
        known = ", ".join(declared) or "none"
        yield Diagnostic(line, f"the meter {feature.meter} is not declared under `meters`; there is {known}")
    if feature.quota is not None and feature.quota < feature.included:
        yield Diagnostic(line, f"the quota of {feature.key} is less than what is included")


def _repeated(names: list[str]) -> Iterator[tuple[int, str]]:
    """The places after the first of every name that is there more than once."""
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            yield index, name
