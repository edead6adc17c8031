"""Reads plans.yaml, the catalogue as people write it; every flaw is named by file, line and reason."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import yaml
from paybill_contracts.catalogue import Catalogue, Feature, Interval, PlanVersion, Price
from paybill_contracts.errors import DomainError
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.values import Key, ProviderId, Text
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

MAX_BYTES = 1024 * 1024
MAX_FLAWS = 20
MAX_VALUES = 100_000

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Path = tuple[int | str, ...]


class PlansError(DomainError):
    """The file is no catalogue. The message has a line for each flaw: `<file>:<line>: <reason>`."""

    code = "invalid_plans"


@dataclass(frozen=True, slots=True)
class Plans:
    """A catalogue and where in the file each plan version stands."""

    content: Catalogue
    lines: dict[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class _Flaw:
    line: int
    reason: str


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


class _Plan(_Written):
    plan: Key
    version: Annotated[int, Field(strict=True, ge=1, le=10**6)]
    name: Text
    tier: Key
    placement: Preset
    trial: Annotated[Span, Field(le=730 * 86_400)] = 0
    grace: Annotated[Span, Field(le=365 * 86_400)]
    retention: Annotated[Span, Field(le=3650 * 86_400)]
    features: list[Feature]
    prices: Annotated[list[_Price], Field(min_length=1)]


class _File(_Written):
    product: Key
    plans: Annotated[list[_Plan], Field(min_length=1, max_length=1000)]


def read_plans(text: str, name: str) -> Plans:
    """The catalogue in `text`, the content of the file called `name`. Raises PlansError."""
    if len(text) > MAX_BYTES:
        raise PlansError(f"{name}:1: the file is larger than {MAX_BYTES} bytes")
    lines: dict[Path, int] = {}
    try:
        written = _File.model_validate(_parsed(text, lines))
        content = Catalogue(product=written.product, plans=tuple(_version(plan) for plan in written.plans))
    except _Flawed as error:
        raise PlansError(_report(name, error.flaws)) from None
    except yaml.YAMLError as error:
        raise PlansError(_report(name, [_yaml_flaw(error)])) from None
    except ValidationError as error:
        raise PlansError(_report(name, [_schema_flaw(item, lines) for item in error.errors()])) from None
    flaws = list(_contradictions(written, lines))
    if flaws:
        raise PlansError(_report(name, flaws))
    where = {(plan.plan, plan.version): lines["plans", index] for index, plan in enumerate(written.plans)}
    return Plans(content=content, lines=where)


class _Flawed(Exception):  # noqa: N818  # carries flaws to the report, and never leaves this module
    def __init__(self, *flaws: _Flaw) -> None:
        super().__init__()
        self.flaws = list(flaws)


def _parsed(text: str, lines: dict[Path, int]) -> Any:
    """Plain values, with the line of each noted by its path."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise _Flawed(_Flaw(1, "the file is empty"))
        return _plain(loader, node, (), lines)
    finally:
        loader.dispose()


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    line = node.start_mark.line + 1
    if path in lines:
        raise _Flawed(_Flaw(line, f"{path[-1]} is written twice, first in line {lines[path]}"))
    lines[path] = line
    if len(lines) > MAX_VALUES:
        raise _Flawed(_Flaw(line, f"more than {MAX_VALUES} values; aliases multiply"))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, index), lines) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        plain = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Flawed(_Flaw(key.start_mark.line + 1, "a name must be plain text"))
            plain[key.value] = _plain(loader, value, (*path, key.value), lines)
        return plain
    return loader.construct_object(node)


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
        features=tuple(plan.features),
        prices=tuple(
            Price(
                amount=Money(minor=price.minor, currency=price.currency),
                interval=price.interval,
                provider_prices=price.provider_prices,
            )
            for price in plan.prices
        ),
    )


def _contradictions(written: _File, lines: dict[Path, int]) -> Iterator[_Flaw]:
    """What each plan says well alone, and not together."""
    for index, name in _repeated([f"{plan.plan} version {plan.version}" for plan in written.plans]):
        yield _Flaw(lines["plans", index], f"{name} is written twice")
    for index, plan in enumerate(written.plans):
        path = ("plans", index)
        for feature, key in _repeated([feature.key for feature in plan.features]):
            yield _Flaw(lines[*path, "features", feature], f"the feature {key} is written twice")
        for price, name in _repeated([f"{price.interval}ly price in {price.currency}" for price in plan.prices]):
            yield _Flaw(lines[*path, "prices", price], f"the {name} is written twice")
        if plan.trial % _SECONDS["d"]:
            yield _Flaw(lines[*path, "trial"], "a trial is in whole days")
    ids = [
        (index, price, f"{provider} {price_id}")
        for index, plan in enumerate(written.plans)
        for price, written_price in enumerate(plan.prices)
        for provider, price_id in written_price.provider_prices.items()
    ]
    for place, name in _repeated([name for _, _, name in ids]):
        index, price, _ = ids[place]
        yield _Flaw(lines["plans", index, "prices", price], f"{name} is the price of two plans")


def _repeated(names: list[str]) -> Iterator[tuple[int, str]]:
    """The places after the first of every name that is there more than once."""
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            yield index, name


def _schema_flaw(item: Any, lines: dict[Path, int]) -> _Flaw:
    """The nearest line to where the schema said no. Some steps of its path are names of types, not of the file."""
    path: Path = ()
    for step in item["loc"]:
        if (*path, step) in lines:
            path = (*path, step)
    missing = item["type"] == "missing"
    where = ".".join(str(step) for step in (*path, item["loc"][-1] if missing else "") if step != "")
    return _Flaw(lines.get(path, 1), f"{where or 'the file'}: {item['msg']}")


def _yaml_flaw(error: yaml.YAMLError) -> _Flaw:
    mark = getattr(error, "problem_mark", None)
    return _Flaw(mark.line + 1 if mark is not None else 1, f"no YAML: {getattr(error, 'problem', None) or error}")


def _report(name: str, flaws: list[_Flaw]) -> str:
    shown = sorted(flaws, key=lambda flaw: flaw.line)[:MAX_FLAWS]
    return "\n".join(f"{name}:{flaw.line}: {flaw.reason}" for flaw in shown)
