"""HTTP routes that show and publish the price book."""

import asyncio
from typing import Annotated, Self

from fastapi import APIRouter, Path, Request
from paybill_contracts.event import digest
from paybill_contracts.price_book import PriceBook, ResourcePrice
from paybill_contracts.values import Count, Digest, Key
from paybill_definitions.price_book_file import PriceBookFile, read_price_book
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_provisioner.api.callers import Admin, Viewer
from paybill_provisioner.api.definition_files import YAML_BODY, DryRun, FileName, text_of
from paybill_provisioner.domain import price_book
from paybill_provisioner.domain.price_book import (
    PRICE_BOOK_ID,
    PriceBookNotPublishedError,
    PublishedPriceBook,
)
from paybill_provisioner.tables import PRICE_BOOK


class PriceBookSummary(BaseModel):
    """A version of the price book."""

    name: Key
    version: Count
    content_hash: Digest
    in_force: bool


class PriceBookList(BaseModel):
    """The price book in force, then earlier versions, the newest first."""

    price_books: Annotated[list[PriceBookSummary], Field(examples=[[]])]


class PriceBookView(BaseModel):
    """The price book in force, and its hash, which plans name."""

    content_hash: Digest
    content: PriceBook


class PriceBookPublication(BaseModel):
    """The effect of a publication."""

    name: Key
    version: Count
    content_hash: Digest
    changes: Annotated[bool, Field(description="False when this content is in force already.")]
    added: Annotated[list[ResourcePrice], Field(description="Prices that the book in force does not have.")]
    removed: Annotated[list[ResourcePrice], Field(description="Prices that only the book in force has.")]

    @classmethod
    def of(cls, current: PublishedPriceBook | None, content: PriceBook, content_hash: str) -> Self:
        """Builds the view of the publication of `content`."""
        before = current.content.prices if current else ()
        return cls(
            name=content.name,
            version=content.version,
            content_hash=content_hash,
            changes=current is None or current.content_hash != content_hash,
            added=[each for each in content.prices if each not in before],
            removed=[each for each in before if each not in content.prices],
        )


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of the price book."""
    routes = Router(prefix="/v1", tags=["price books"])
    parse_lock = asyncio.Lock()
    key = PRICE_BOOK.key(PRICE_BOOK_ID)

    @routes.get("/price-books")
    async def show_all(_: Viewer) -> PriceBookList:
        """Lists the price book in force and the earlier versions; empty before the first is published."""
        state = await load_state(context, PRICE_BOOK, PRICE_BOOK_ID)
        if state is None:
            return PriceBookList(price_books=[])
        current = PriceBookSummary(
            name=state.content.name, version=state.content.version, content_hash=state.content_hash, in_force=True
        )
        earlier = [
            PriceBookSummary(name=each.name, version=each.version, content_hash=each.content_hash, in_force=False)
            for each in reversed(state.earlier)
        ]
        return PriceBookList(price_books=[current, *earlier])

    @routes.get("/price-books/{name}")
    async def show(name: Annotated[Key, Path(description="Name of the price book.")], _: Viewer) -> PriceBookView:
        """Shows the price book in force."""
        state = await load_state(context, PRICE_BOOK, PRICE_BOOK_ID)
        if state is None or state.content.name != name:
            found = f"only {state.content.name}" if state else "none is published yet"
            raise PriceBookNotPublishedError(f"no price book {name} is in force, {found}")
        return PriceBookView(content_hash=state.content_hash, content=state.content)

    @routes.post("/price-books", openapi_extra=YAML_BODY)
    async def publish(
        request: Request, principal: Admin, *, file: FileName = "prices.yaml", dry_run: DryRun = False
    ) -> PriceBookPublication:
        """Publishes the prices.yaml in the body; plans are estimated by it from now on. Idempotent.

        It needs the role admin: prices decide whether the policy's cost limit holds a plan.

        Refused with `invalid_price_book`, one line for each problem, and with `price_book_version_conflict` when a
        version that is not newer has another content.
        """
        text = text_of(await request.body(), file, "invalid_price_book")
        async with parse_lock:
            read_file: PriceBookFile = await asyncio.to_thread(read_price_book, text, file)

        def decide(unit: UnitOfWork, _: DecisionContext) -> PriceBookPublication:
            state = unit.get(PRICE_BOOK, PRICE_BOOK_ID)
            events = price_book.publish(state, read_file.content)
            if not dry_run:
                unit.record(PRICE_BOOK, PRICE_BOOK_ID, events)
            return PriceBookPublication.of(state, read_file.content, digest(read_file.content))

        return await context.decide(
            principal.origin,
            decide,
            writes=[] if dry_run else [key],
            reads=[key] if dry_run else [],
            verb="" if dry_run else "publish_price_book",
            target=file,
            idempotency=None if dry_run else principal.idempotency,
            response_type=PriceBookPublication,
        )

    return routes
