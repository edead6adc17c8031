"""HTTP routes that show and publish the catalogue."""

import asyncio
from typing import Annotated, Self

from fastapi import APIRouter, Query, Request
from paybill_contracts.catalogue import BuildableTier, Meter, PlanVersion
from paybill_contracts.event import digest
from paybill_contracts.inputs import PlainText
from paybill_contracts.values import Digest
from paybill_definitions.plans_file import Plans, read_plans
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_billing.catalogue.domain import catalogue, differences, tiers
from paybill_billing.catalogue.domain.catalogue import Catalogue, CatalogueRefusedError
from paybill_billing.catalogue.domain.differences import Difference, MeterDifference, VersionDifference
from paybill_billing.catalogue.domain.tiers import Tiers
from paybill_billing.catalogue.tables import CATALOGUES, TIERS
from paybill_billing.http import Operator, Viewer

File = Annotated[PlainText, Query(description="The file name in the lines that report errors.")]
DryRun = Annotated[bool, Query(description="Report the changes and the reasons for a refusal; change nothing.")]

_YAML = {
    "requestBody": {
        "required": True,
        "content": {"application/yaml": {"schema": {"type": "string", "description": "plans.yaml, UTF-8."}}},
    }
}


class CatalogueView(BaseModel):
    """The plans on sale and the retired ones. Decisions of billing name `content_hash`."""

    product: str
    content_hash: Digest
    plans: list[PlanVersion]
    retired: Annotated[list[PlanVersion], Field(description="No longer on sale, and kept for their subscribers.")]
    meters: list[Meter]
    tiers: Annotated[
        list[BuildableTier] | None,
        Field(description="The tiers that environments can be built from; null until they are known."),
    ]

    @classmethod
    def of(cls, known: Catalogue, buildable_tiers: Tiers | None) -> Self:
        """Returns the view of `known`."""
        sold = list(known.on_sale.plans)
        return cls(
            product=known.on_sale.product,
            content_hash=known.content_hash,
            plans=sold,
            retired=[entry.plan for entry in known.published if entry.plan not in sold],
            meters=list(known.meters),
            tiers=list(buildable_tiers.tiers) if buildable_tiers is not None else None,
        )


class PublicationView(BaseModel):
    """The effect of a publication on the plans on sale."""

    content_hash: Digest
    changes: Annotated[bool, Field(description="False when this content is already on sale.")]
    added: Annotated[list[str], Field(description="Plan versions that come on sale.", examples=[["pro@2"]])]
    retired: Annotated[list[str], Field(description="Plan versions that go off sale.", examples=[["pro@1"]])]
    versions: Annotated[
        list[VersionDifference],
        Field(description="Each version that comes on sale, compared with the version before it."),
    ]
    meters: list[MeterDifference]
    refused: Annotated[list[str], Field(description="Reasons for a refusal: `<file>:<line>: <reason>`.", examples=[[]])]

    @classmethod
    def of(cls, plans: Plans, difference: Difference, refused: list[str], *, changes: bool) -> Self:
        """Returns the view of `difference`."""
        return cls(
            content_hash=digest(plans.content),
            changes=changes,
            added=list(difference.added),
            retired=list(difference.retired),
            versions=list(difference.versions),
            meters=list(difference.meters),
            refused=refused,
        )


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of the catalogue."""
    routes = Router(prefix="/v1", tags=["catalogue"], problems={422: ("invalid_plans",)})
    parse_lock = asyncio.Lock()
    plans_key, tiers_key = CATALOGUES.key(catalogue.CATALOGUE), TIERS.key(tiers.TIERS)

    @routes.get("/catalogue")
    async def show_catalogue(_: Viewer) -> CatalogueView:
        """Returns the plans on sale, the retired plans, and the meters."""
        known = catalogue.existing(await load_state(context, CATALOGUES, catalogue.CATALOGUE))
        return CatalogueView.of(known, await load_state(context, TIERS, tiers.TIERS))

    @routes.post("/catalogue", openapi_extra=_YAML)
    async def publish(
        request: Request, principal: Operator, *, file: File = "plans.yaml", dry_run: DryRun = False
    ) -> PublicationView:
        """Publishes the plans.yaml in the body; its plans are on sale from now on. Idempotent.

        Refused with `invalid_plans` when the file is invalid, and with `catalogue_refused` when it edits a published
        plan version or names a tier that cannot be built: one line for each problem.
        """
        body = await request.body()
        async with parse_lock:
            plans = await _read(body, file)

        def decide(unit: UnitOfWork, _: DecisionContext) -> PublicationView:
            known, buildable_tiers = unit.get(CATALOGUES, catalogue.CATALOGUE), unit.get(TIERS, tiers.TIERS)
            buildable = buildable_tiers.buildable if buildable_tiers is not None else None
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
            return await context.decide(
                principal.origin,
                decide,
                writes=[] if dry_run else [plans_key],
                reads=[plans_key, tiers_key] if dry_run else [tiers_key],
                verb="" if dry_run else "publish_catalogue",
                target=file,
                idempotency=None if dry_run else principal.idempotency,
                response_type=PublicationView,
            )
        except CatalogueRefusedError as error:
            raise Problem(409, error.code, "\n".join(plans.report(error.objections))) from None

    return routes


async def _read(body: bytes, file: str) -> Plans:
    """Parses plans.yaml in a thread: a large file takes seconds. Raises PlansError, or Problem if it is not UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem(422, "invalid_plans", f"{file}:1: the file is not UTF-8: {error.reason}") from None
    return await asyncio.to_thread(read_plans, text, file)
