"""HTTP of the catalogue: what is sold and was sold, and publishing what is to be sold."""

import asyncio
from typing import Annotated, Self

from fastapi import APIRouter, Query, Request
from paybill_contracts.catalogue import BuildableTier, Meter, PlanVersion
from paybill_contracts.event import digest
from paybill_contracts.values import Digest
from paybill_definitions.plans_file import Plans, read_plans
from paybill_runtime.decisions.context import Edge
from paybill_runtime.decisions.unit_of_work import Moment, Unit
from paybill_runtime.http.problems import Problem
from pydantic import BaseModel, Field, StringConstraints

from paybill_billing.catalogue.domain import catalogue, differences, tiers
from paybill_billing.catalogue.domain.catalogue import Catalogue, CatalogueRefusedError
from paybill_billing.catalogue.domain.differences import Difference, MeterDifference, VersionDifference
from paybill_billing.catalogue.domain.tiers import Tiers
from paybill_billing.catalogue.tables import CATALOGUES, TIERS
from paybill_billing.reading import Reader, Writer, found

File = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"),
    Query(description="What the file is called in the lines that say what is wrong with it."),
]
DryRun = Annotated[bool, Query(description="Say what would change and why it would be refused; change nothing.")]

_YAML = {
    "requestBody": {
        "required": True,
        "content": {"application/yaml": {"schema": {"type": "string", "description": "plans.yaml, UTF-8."}}},
    }
}


class CatalogueView(BaseModel):
    """What is on sale, and what was. Decisions of billing name `content_hash`."""

    product: str
    content_hash: Digest
    plans: list[PlanVersion]
    retired: Annotated[list[PlanVersion], Field(description="Off sale, and kept for those who bought them.")]
    meters: list[Meter]
    tiers: Annotated[
        list[BuildableTier] | None, Field(description="What environments can be built of; null until that is known.")
    ]

    @classmethod
    def of(cls, known: Catalogue, noted: Tiers | None) -> Self:
        """What is shown of `known`."""
        sold = list(known.on_sale.plans)
        return cls(
            product=known.on_sale.product,
            content_hash=known.content_hash,
            plans=sold,
            retired=[entry.plan for entry in known.published if entry.plan not in sold],
            meters=list(known.meters),
            tiers=list(noted.tiers) if noted is not None else None,
        )


class PublicationView(BaseModel):
    """What a publication changes of what is on sale."""

    content_hash: Digest
    changes: Annotated[bool, Field(description="False when this is on sale already.")]
    added: Annotated[list[str], Field(description="Plan versions that come on sale.", examples=[["pro@2"]])]
    retired: Annotated[list[str], Field(description="Plan versions that go off sale.", examples=[["pro@1"]])]
    versions: Annotated[
        list[VersionDifference], Field(description="Each that comes on sale, beside the version before it.")
    ]
    meters: list[MeterDifference]
    refused: Annotated[
        list[str], Field(description="Why it cannot be published: `<file>:<line>: <reason>`.", examples=[[]])
    ]

    @classmethod
    def of(cls, plans: Plans, difference: Difference, refused: list[str], *, changes: bool) -> Self:
        """What is shown of `difference`."""
        return cls(
            content_hash=digest(plans.content),
            changes=changes,
            added=list(difference.added),
            retired=list(difference.retired),
            versions=list(difference.versions),
            meters=list(difference.meters),
            refused=refused,
        )


def router(edge: Edge) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/v1", tags=["catalogue"])
    reading = asyncio.Lock()
    plans_key, tiers_key = CATALOGUES.key(catalogue.CATALOGUE), TIERS.key(tiers.TIERS)

    @routes.get("/catalogue")
    async def show_catalogue(_: Reader) -> CatalogueView:
        """The plans on sale, those that were, and how usage is counted."""
        known = catalogue.existing(await found(edge, CATALOGUES, catalogue.CATALOGUE))
        return CatalogueView.of(known, await found(edge, TIERS, tiers.TIERS))

    @routes.post("/catalogue", openapi_extra=_YAML)
    async def publish(
        request: Request, who: Writer, *, file: File = "plans.yaml", dry_run: DryRun = False
    ) -> PublicationView:
        """Sell what the plans.yaml in the body says, from now on. The same again changes nothing.

        Refused with `invalid_plans` when the file is wrong, and with `catalogue_refused` when it edits what customers
        agreed to or promises what cannot be built: a line for each flaw.
        """
        body = await request.body()
        async with reading:
            plans = await _read(body, file)

        def decide(unit: Unit, _: Moment) -> PublicationView:
            known, noted = unit.get(CATALOGUES, catalogue.CATALOGUE), unit.get(TIERS, tiers.TIERS)
            buildable = noted.buildable if noted is not None else None
            view = PublicationView.of(
                plans,
                differences.between(known, plans.content),
                plans.report(catalogue.objections(known, plans.content, buildable)),
                changes=known is None or known.on_sale != plans.content,
            )
            if not dry_run:
                events = catalogue.publish(known, plans.content, buildable)
                unit.record(CATALOGUES, catalogue.CATALOGUE, events)
            return view

        try:
            return await edge.decide(
                who.origin,
                decide,
                writes=[] if dry_run else [plans_key],
                reads=[plans_key, tiers_key] if dry_run else [tiers_key],
                verb="" if dry_run else "publish_catalogue",
                target=file,
                idempotency=None if dry_run else who.idempotency,
                answer=PublicationView,
            )
        except CatalogueRefusedError as error:
            raise Problem(409, error.code, "\n".join(plans.report(error.objections))) from None

    return routes


async def _read(body: bytes, file: str) -> Plans:
    """Raises PlansError, and Problem for what is no text. In a thread, one at a time: a large file takes seconds."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem(422, "invalid_plans", f"{file}:1: this is no UTF-8: {error.reason}") from None
    return await asyncio.to_thread(read_plans, text, file)
