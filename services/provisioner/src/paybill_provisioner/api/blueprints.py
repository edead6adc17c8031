"""HTTP routes that show and publish blueprints."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import APIRouter, Path, Request
from paybill_contracts.blueprints import Blueprint, CellGroup, buildable
from paybill_contracts.catalogue import BuildableTier
from paybill_contracts.errors import NotFoundError
from paybill_contracts.event import digest
from paybill_contracts.values import Digest, Key
from paybill_definitions.blueprint_differences import BlueprintDifference, differences
from paybill_definitions.blueprints_file import BlueprintFile, read_blueprint
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field

from paybill_provisioner.api.callers import Operator, Viewer
from paybill_provisioner.api.cells import CellView, load_cells
from paybill_provisioner.api.definition_files import YAML_BODY, DryRun, FileName, text_of
from paybill_provisioner.domain import blueprints
from paybill_provisioner.domain.blueprints import (
    BLUEPRINT_ID,
    Blueprints,
    BlueprintVersionError,
    InvalidBlueprintError,
    PublishedBlueprint,
)
from paybill_provisioner.tables import BLUEPRINTS, CELL_KEYS, record_cells


class BlueprintNotFoundError(NotFoundError):
    """No blueprint with this name is in force, or none at all."""

    code = "blueprint_not_published"


class BlueprintView(BaseModel):
    """A blueprint in force, its hash, which plans name, and the cells of its regions."""

    content_hash: str
    content: Blueprint
    cells: list[CellView]

    @classmethod
    def of(cls, published: PublishedBlueprint, cells: Sequence[CellView]) -> Self:
        """Builds the view of `published`; cells: of all blueprints."""
        content = published.content
        levels = {each.isolation for each in content.cells}
        own = [each for each in cells if each.isolation in levels and each.region in content.regions]
        return cls(content_hash=published.content_hash, content=content, cells=own)


class BlueprintSummary(BaseModel):
    """Summary of a version of a blueprint. Parts of a version that is no longer in force are empty."""

    name: Key
    version: int
    content_hash: Digest
    in_force: bool
    regions: list[Key]
    tiers: list[BuildableTier]
    cells: list[CellGroup]

    @classmethod
    def of(cls, published: PublishedBlueprint) -> Self:
        """Builds the summary of a blueprint in force."""
        content = published.content
        return cls(
            name=content.name,
            version=content.version,
            content_hash=published.content_hash,
            in_force=True,
            regions=list(content.regions),
            tiers=list(buildable(content.tiers)),
            cells=list(content.cells),
        )


class BlueprintList(BaseModel):
    """Blueprints in force in the order of their names, then earlier versions, the newest first."""

    blueprints: list[BlueprintSummary]


class BlueprintPublication(BaseModel):
    """The effect of a publication."""

    name: Key
    version: int
    content_hash: Digest
    changes: Annotated[bool, Field(description="False when this content is in force already.")]
    differences: Annotated[list[BlueprintDifference], Field(description="Compared with the version in force.")]
    refused: Annotated[list[str], Field(description="Reasons for a refusal: `<file>:<line>: <reason>`.", examples=[[]])]
    refused_code: Annotated[str | None, Field(description="Problem code of the refusal.")]

    @classmethod
    def of(cls, known: Blueprints | None, file: BlueprintFile) -> Self:
        """Builds the view of a publication of `file`."""
        content = file.content
        current = known.named(content.name) if known else None
        changes = current is None or current.content_hash != digest(content)
        refused = blueprints.objections(known, content) if changes else []
        code = InvalidBlueprintError.code if refused else None
        if changes and (conflict := blueprints.version_conflict(current, content)):
            refused.append(conflict)
            code = code or BlueprintVersionError.code
        return cls(
            name=content.name,
            version=content.version,
            content_hash=digest(content),
            changes=changes,
            differences=list(differences(current.content if current else None, content)),
            refused=file.report(refused),
            refused_code=code,
        )


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes of blueprints."""
    routes = Router(prefix="/v1", tags=["blueprints"])
    parse_lock = asyncio.Lock()
    key = BLUEPRINTS.key(BLUEPRINT_ID)

    async def known() -> Blueprints:
        state = await load_state(context, BLUEPRINTS, BLUEPRINT_ID)
        if state is None:
            raise BlueprintNotFoundError("no blueprint is published yet; see the service's log for why")
        return state

    @routes.get("/blueprint")
    async def show_first(_: Viewer) -> BlueprintView:
        """Shows the first blueprint in force, by name. `/v1/blueprints` lists all."""
        return BlueprintView.of((await known()).in_force[0], await load_cells(context))

    @routes.get("/blueprints")
    async def show_all(_: Viewer) -> BlueprintList:
        """Lists the blueprints in force and the earlier versions."""
        state = await known()
        earlier = [
            BlueprintSummary(
                name=each.name,
                version=each.version,
                content_hash=each.content_hash,
                in_force=False,
                regions=[],
                tiers=[],
                cells=[],
            )
            for each in reversed(state.earlier)
        ]
        return BlueprintList(blueprints=[*map(BlueprintSummary.of, state.in_force), *earlier])

    @routes.get("/blueprints/{name}")
    async def show(name: Annotated[Key, Path(description="Name of the blueprint.")], _: Viewer) -> BlueprintView:
        """Shows the version in force of one blueprint."""
        state = await known()
        published = state.named(name)
        if published is None:
            names = ", ".join(each.content.name for each in state.in_force)
            raise BlueprintNotFoundError(f"there is no blueprint {name}, only {names}")
        return BlueprintView.of(published, await load_cells(context))

    @routes.post("/blueprints", openapi_extra=YAML_BODY)
    async def publish(
        request: Request, principal: Operator, *, file: FileName = "blueprints.yaml", dry_run: DryRun = False
    ) -> BlueprintPublication:
        """Publishes the blueprints.yaml in the body; environments are planned by it from now on. Idempotent.

        Refused with `invalid_blueprint`, one line for each problem, and with `blueprint_version_conflict` when a
        version that is not newer has another content.
        """
        text = text_of(await request.body(), file, "invalid_blueprint")
        async with parse_lock:
            read_file = await asyncio.to_thread(read_blueprint, text, file)

        def decide(unit: UnitOfWork, _: DecisionContext) -> BlueprintPublication:
            state = unit.get(BLUEPRINTS, BLUEPRINT_ID)
            view = BlueprintPublication.of(state, read_file)
            if not dry_run:
                unit.record(BLUEPRINTS, BLUEPRINT_ID, blueprints.publish(state, read_file.content))
                record_cells(unit)
            return view

        try:
            return await context.decide(
                principal.origin,
                decide,
                writes=[] if dry_run else [key, *CELL_KEYS],
                reads=[key] if dry_run else [],
                verb="" if dry_run else "publish_blueprint",
                target=file,
                idempotency=None if dry_run else principal.idempotency,
                response_type=BlueprintPublication,
            )
        except InvalidBlueprintError as error:
            raise Problem(422, error.code, "\n".join(read_file.report(error.diagnostics))) from None

    return routes
