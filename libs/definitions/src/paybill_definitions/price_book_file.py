"""Reads prices.yaml, and reports every error by file, line and reason."""

from datetime import date
from typing import Annotated

from paybill_contracts.errors import DomainError
from paybill_contracts.event import canonical
from paybill_contracts.inputs import PlainText
from paybill_contracts.kinds import ResourceSize
from paybill_contracts.money import MAX_MINOR
from paybill_contracts.placement import Isolation
from paybill_contracts.price_book import CurrencyCode, PriceBook, PriceUnit, ResourcePrice
from paybill_contracts.values import Key
from pydantic import Field

from paybill_definitions.definition_file import MAX_CONTENT_BYTES, DefinitionFile, StrictInput
from paybill_definitions.price_book_rules import errors
from paybill_definitions.yaml_lines import InvalidDocumentError, read, report


class PriceBookFileError(DomainError):
    """The file is no valid price book. The message has one line for each error: `<file>:<line>: <reason>`."""

    code = "invalid_price_book"


PriceBookFile = DefinitionFile[PriceBook]


class _Price(StrictInput):
    kind: Key
    cloud: Key
    region: Key | None = None
    isolation: Isolation | None = None
    size: ResourceSize | None = None
    per: PriceUnit | None = None
    minor: Annotated[int, Field(ge=0, le=MAX_MINOR, strict=True)]


class _File(StrictInput):
    name: Key
    version: Annotated[int, Field(ge=1, le=1_000_000)]
    source: PlainText
    date: date
    currency: CurrencyCode
    prices: tuple[_Price, ...]


def read_price_book(text: str, file: str) -> PriceBookFile:
    """Parses a price book in YAML. file: its name in messages. Raises PriceBookFileError with all errors."""
    try:
        source, lines = read(_File, text)
    except InvalidDocumentError as error:
        raise PriceBookFileError("\n".join(report(file, error.diagnostics))) from None
    content = PriceBook(
        name=source.name,
        version=source.version,
        source=source.source,
        date=source.date.isoformat(),
        currency=source.currency,
        prices=tuple(ResourcePrice(**each.model_dump()) for each in source.prices),
    )
    read_file = DefinitionFile(content, file, lines)
    found = read_file.report(errors(content))
    if not found and len(canonical(content.model_dump(mode="json"))) > MAX_CONTENT_BYTES:
        found = [f"{file}:1: the price book has more than {MAX_CONTENT_BYTES} bytes"]
    if found:
        raise PriceBookFileError("\n".join(found))
    return read_file
