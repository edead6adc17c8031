"""Price book: the monthly prices of resources at their providers, by which plans of environments are estimated."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.event import Event, Value
from paybill_contracts.kinds import ResourceSize
from paybill_contracts.placement import Isolation
from paybill_contracts.values import Count, Digest, Key, Text

Day = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"),
    Field(examples=["2026-11-01"]),
]
CurrencyCode = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$"), Field(examples=["EUR"])]


class PriceUnit(StrEnum):
    """Attribute of a resource that a price is multiplied by."""

    STORAGE_GIB = "storage_gib"
    COUNT = "count"


class ResourcePrice(Value):
    """Price of a resource for one month, or of one unit of its attribute `per`.

    region, isolation, size: None applies to all; the price with most of them applies. minor: in the book's currency.
    """

    kind: Key
    cloud: Key
    region: Key | None = None
    isolation: Isolation | None = None
    size: ResourceSize | None = None
    per: PriceUnit | None = None
    minor: Count


class PriceBook(Value):
    """A version of the prices. source: the list that they are copied from; date: on which they were valid there."""

    name: Key
    version: Count
    source: Text
    date: Day
    currency: CurrencyCode
    prices: tuple[ResourcePrice, ...]


class PriceBookRef(Value):
    """A version of a price book. `content_hash` identifies what it contains."""

    name: Key
    version: Count
    content_hash: Digest


class PriceBookPublished(
    Event, type="provisioner.price_book_published", version=1, aggregate="price_book", key="price_book"
):
    """Plans are estimated by these prices from now on, and name `content_hash`."""

    price_book: Key
    content: PriceBook
    content_hash: Digest
