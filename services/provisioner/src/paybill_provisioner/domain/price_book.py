"""The price book in force: published by a person, and never replaced by an older version."""

from dataclasses import dataclass

from paybill_contracts.errors import ConflictError, DomainError, NotFoundError
from paybill_contracts.event import digest
from paybill_contracts.price_book import PriceBook, PriceBookPublished, PriceBookRef
from paybill_definitions.diagnostics import PartDiagnostic
from paybill_definitions.price_book_rules import errors

from paybill_provisioner.domain.blueprints import MAX_EARLIER, EarlierVersion

PRICE_BOOK_ID = "main"
"""Id of the state with the price book in force."""


class InvalidPriceBookError(DomainError):
    """The price book contradicts itself."""

    code = "invalid_price_book"

    def __init__(self, *diagnostics: PartDiagnostic) -> None:
        super().__init__("; ".join(each.reason for each in diagnostics[:5]))
        self.diagnostics = diagnostics


class PriceBookVersionError(ConflictError):
    """The version is not newer than the one in force."""

    code = "price_book_version_conflict"


class PriceBookNotPublishedError(NotFoundError):
    """No price book is in force, or none with this name."""

    code = "price_book_not_published"


@dataclass(frozen=True, slots=True)
class PublishedPriceBook:
    """The price book in force, its hash, which plans name, and the versions before it."""

    id: str
    content: PriceBook
    content_hash: str
    earlier: tuple[EarlierVersion, ...] = ()

    @property
    def ref(self) -> PriceBookRef:
        """Returns what a plan names."""
        return PriceBookRef(name=self.content.name, version=self.content.version, content_hash=self.content_hash)


def publish(current: PublishedPriceBook | None, content: PriceBook) -> list[PriceBookPublished]:
    """Publishes a version; the one that is in force already changes nothing.

    Raises InvalidPriceBookError, PriceBookVersionError.
    """
    content_hash = digest(content)
    if current is not None and current.content_hash == content_hash:
        return []
    if found := list(errors(content)):
        raise InvalidPriceBookError(*found)
    if current is not None and current.content.name == content.name and content.version <= current.content.version:
        raise PriceBookVersionError(
            f"{content.name}@{current.content.version} is in force; "
            f"write `version: {current.content.version + 1}` for another content"
        )
    return [PriceBookPublished(price_book=PRICE_BOOK_ID, content=content, content_hash=content_hash)]


def evolve(current: PublishedPriceBook | None, event: PriceBookPublished) -> PublishedPriceBook:
    """Returns the price book in force after `event`."""
    earlier: tuple[EarlierVersion, ...] = ()
    if current is not None:
        last = EarlierVersion(current.content.name, current.content.version, current.content_hash)
        earlier = (*current.earlier, last)[-MAX_EARLIER:]
    return PublishedPriceBook(event.price_book, event.content, event.content_hash, earlier)
