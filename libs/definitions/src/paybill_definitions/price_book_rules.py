"""Rules of a price book: known kinds, clouds and units, a currency, and one price for each case."""

from collections.abc import Iterator

from paybill_contracts.kinds import KINDS
from paybill_contracts.money import is_currency
from paybill_contracts.price_book import PriceBook

from paybill_definitions.blueprint_rules import CLOUDS
from paybill_definitions.diagnostics import PartDiagnostic


def errors(book: PriceBook) -> Iterator[PartDiagnostic]:
    """Yields every error of a price book."""
    if not is_currency(book.currency):
        yield PartDiagnostic(("currency",), f"{book.currency} is no currency of ISO 4217")
    if not book.prices:
        yield PartDiagnostic(("prices",), "a price book needs at least one price")
    first: dict[tuple[object, ...], int] = {}
    for index, price in enumerate(book.prices):
        path = ("prices", index)
        attributes = KINDS[price.kind].model_fields if price.kind in KINDS else None
        if attributes is None:
            yield PartDiagnostic((*path, "kind"), f"there is no kind {price.kind}, only {', '.join(KINDS)}")
            continue
        if price.cloud not in CLOUDS:
            known = ", ".join(CLOUDS)
            yield PartDiagnostic((*path, "cloud"), f"there is no driver for {price.cloud}, only {known}")
        for name, value in (("per", price.per), ("size", "size" if price.size else None)):
            if value is not None and value not in attributes:
                yield PartDiagnostic((*path, name), f"a {price.kind} has no attribute {value}")
        case = (price.kind, price.cloud, price.region, price.isolation, price.size, price.per)
        if case in first:
            yield PartDiagnostic(path, f"this case has a price already, number {first[case] + 1} of `prices`")
        first.setdefault(case, index)
