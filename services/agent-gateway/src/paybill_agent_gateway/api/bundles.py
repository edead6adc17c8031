"""Routes of bundles: published, put in force again, listed and shown."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Query
from paybill_contracts.agent_bundles import Bundle, TableRights
from paybill_contracts.errors import DomainError
from paybill_contracts.event import canonical, digest, explain
from paybill_contracts.values import Count, Digest, Key
from paybill_definitions.agent_bundle import read_bundle
from paybill_definitions.agent_differences import BundleDifference, differences
from paybill_definitions.agent_drift import drift
from paybill_definitions.agent_rights import rights
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.problems import Problem
from paybill_runtime.http.router import Router
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from sqlalchemy import select
from sqlmodel import col

from paybill_agent_gateway.api.callers import Operator, Viewer
from paybill_agent_gateway.domain import bundles
from paybill_agent_gateway.domain.bundles import BundleInForce, PublishedBundle
from paybill_agent_gateway.tables import BLUEPRINTS, BUNDLES, IN_FORCE, BundleRow

BundleHash = Annotated[Digest, Path(description="Hash of the bundle.")]
DryRun = Annotated[bool, Query(description="Report the changes and the reasons for a refusal; change nothing.")]
HashBeginning = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,64}$")]
Position = Annotated[str, StringConstraints(max_length=200, pattern=r"^[0-9A-Za-z:.+/-]*$")]


class BundleBody(BaseModel):
    """A bundle: its files with the name of its blueprint, or its canonical form."""

    files: Annotated[
        dict[Annotated[str, Field(max_length=200)], str] | None, Field(description="Text of each file of the folder.")
    ] = None
    blueprint: Annotated[Key | None, Field(description="Name of the blueprint of the files.")] = None
    content: Annotated[
        dict[str, Any] | None, Field(description="The canonical form, as `GET` returns it, instead of files.")
    ] = None


class BundlePublication(BaseModel):
    """The effect of a publication, or of putting a bundle in force."""

    content_hash: Digest
    blueprint: Key
    changes: Annotated[bool, Field(description="False when this bundle is in force already.")]
    differences: Annotated[list[BundleDifference], Field(description="Compared with the bundle in force.")]
    rights: Annotated[list[TableRights], Field(description="Of agents' logins, while this bundle is in force.")]
    refused: Annotated[list[str], Field(description="Reasons for a refusal.", examples=[[]])]
    refused_code: Annotated[str | None, Field(description="Problem code of the refusal.")]


class BundleSummary(BaseModel):
    """Summary of a published bundle."""

    content_hash: Digest
    blueprint: Key
    blueprint_version: Count
    workflows: list[Key]
    grants: list[str]
    in_force: bool
    published_by: str
    published_at: datetime

    @classmethod
    def of(cls, bundle: PublishedBundle, in_force: Mapping[str, BundleInForce]) -> Self:
        """Builds the summary of `bundle`. in_force: by blueprint."""
        name = bundle.content.blueprint.name
        return cls(
            content_hash=bundle.content_hash,
            blueprint=name,
            blueprint_version=bundle.content.blueprint.version,
            workflows=[each.name for each in bundle.content.workflows],
            grants=[each.id for each in bundle.content.grants],
            in_force=name in in_force and in_force[name].bundle_hash == bundle.content_hash,
            published_by=bundle.published_by,
            published_at=bundle.published_at,
        )


class BundlePage(BaseModel):
    """Published bundles, the newest first."""

    bundles: list[BundleSummary]
    next: Annotated[str | None, Field(description="Send it as `after` for the next page; null on the last.")]


class BundleView(BaseModel):
    """A published bundle with its content, and its drift from the blueprint in force."""

    summary: BundleSummary
    content: Bundle
    drift: Annotated[list[str], Field(description="What the bundle assumes and the blueprint in force does not have.")]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A bundle with all that follows from its content: it is computed before the decision, in a thread."""

    content: Bundle
    content_hash: Digest
    rights: tuple[TableRights, ...]
    differences: tuple[BundleDifference, ...]

    @classmethod
    def of(cls, before: Bundle | None, content: Bundle) -> Self:
        """Prepares `content`, which comes after `before`."""
        return cls(content, digest(content), rights(content), tuple(differences(before, content)))

    def publication(self, *, changes: bool, refusal: DomainError | None = None) -> BundlePublication:
        """Returns the effect of its publication."""
        return BundlePublication(
            content_hash=self.content_hash,
            blueprint=self.content.blueprint.name,
            changes=changes,
            differences=list(self.differences),
            rights=list(self.rights),
            refused=str(refusal).splitlines() if refusal else [],
            refused_code=refusal.code if refusal else None,
        )


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes below `/v1/bundles`."""
    routes = Router(prefix="/v1/bundles", tags=["bundles"], problems={422: ("invalid_body", "invalid_bundle")})
    check_lock = asyncio.Lock()

    @routes.post("")
    async def publish(body: BundleBody, principal: Operator, *, dry_run: DryRun = False) -> BundlePublication:
        """Checks a bundle, publishes it whole and puts it in force. Idempotent.

        Refused with `invalid_bundle`, one line for each error, `blueprint_unknown`, `blueprint_changed` when another
        version of the blueprint has come into force since, and `bundle_drifted`.
        """
        async with check_lock:  # a large bundle takes the whole processor for a moment
            content = await _content(context, body)
            before = await _current(context, content.blueprint.name)
            prepared = await asyncio.to_thread(lambda: _Prepared.of(before, bundles.checked(content)))
        content, content_hash, name = prepared.content, prepared.content_hash, prepared.content.blueprint.name

        def decide(unit: UnitOfWork, at: DecisionContext) -> BundlePublication:
            blueprint, known = unit.get(BLUEPRINTS, name), unit.get(BUNDLES, content_hash)
            published = bundles.publish(known, content, blueprint, principal.subject, at.now)
            bundle = known or bundles.evolve(None, published[0])
            in_force = unit.get(IN_FORCE, name)
            activated = bundles.activate(in_force, bundle, prepared.rights, blueprint, principal.subject, at.now)
            if not dry_run:
                unit.record(BUNDLES, content_hash, published)
                unit.record(IN_FORCE, name, activated)
            return prepared.publication(changes=bool(published or activated))

        keys = [BUNDLES.key(content_hash), IN_FORCE.key(name)]
        try:
            return await context.decide(
                principal.origin,
                decide,
                writes=[] if dry_run else keys,
                reads=[BLUEPRINTS.key(name), *(keys if dry_run else ())],
                verb="" if dry_run else "publish_bundle",
                target=name,
                idempotency=None if dry_run else principal.idempotency,
                response_type=BundlePublication,
            )
        except DomainError as error:
            if not dry_run:
                raise
            return prepared.publication(changes=True, refusal=error)

    @routes.post("/{content_hash}/activate")
    async def activate(content_hash: BundleHash, principal: Operator, *, dry_run: DryRun = False) -> BundlePublication:
        """Puts a published bundle in force again, such as an older one as the rollback. Idempotent.

        Refused with `bundle_unknown` and `bundle_drifted`.
        """
        bundle = bundles.existing(await load_state(context, BUNDLES, content_hash), content_hash)
        name = bundle.content.blueprint.name
        before = await _current(context, name)
        async with check_lock:
            prepared = await asyncio.to_thread(_Prepared.of, before, bundle.content)

        def decide(unit: UnitOfWork, at: DecisionContext) -> BundlePublication:
            known, blueprint = unit.get(IN_FORCE, name), unit.get(BLUEPRINTS, name)
            activated = bundles.activate(known, bundle, prepared.rights, blueprint, principal.subject, at.now)
            if not dry_run:
                unit.record(IN_FORCE, name, activated)
            return prepared.publication(changes=bool(activated))

        key = IN_FORCE.key(name)
        return await context.decide(
            principal.origin,
            decide,
            writes=[] if dry_run else [key],
            reads=[BLUEPRINTS.key(name), *([key] if dry_run else [])],
            verb="" if dry_run else "activate_bundle",
            target=name,
            idempotency=None if dry_run else principal.idempotency,
            response_type=BundlePublication,
        )

    @routes.get("")
    async def show_all(
        _: Viewer,
        blueprint: Key | None = None,
        beginning: Annotated[
            HashBeginning | None, Query(alias="hash", description="Only hashes with this beginning.")
        ] = None,
        after: Position | None = None,
        limit: Limit = 50,
    ) -> BundlePage:
        """Lists the published bundles, the newest first, and whether each is in force."""
        conditions = [] if beginning is None else [col(BundleRow.id).startswith(beginning)]
        page, next_ = await load_page(
            context, BUNDLES, after, limit, *conditions, order_by="-published", blueprint=blueprint
        )
        active = await _in_force(context)
        return BundlePage(bundles=[BundleSummary.of(each, active) for each in page], next=next_)

    @routes.get("/{content_hash}")
    async def show(content_hash: BundleHash, _: Viewer) -> BundleView:
        """Shows a bundle and its drift. Refused with `bundle_unknown`."""
        bundle = bundles.existing(await load_state(context, BUNDLES, content_hash), content_hash)
        blueprint = await load_state(context, BLUEPRINTS, bundle.content.blueprint.name)
        found = [each.reason for each in drift(bundle.content, blueprint.content)] if blueprint else []
        summary = BundleSummary.of(bundle, await _in_force(context))
        return BundleView(summary=summary, content=bundle.content, drift=found)

    return routes


async def _in_force(context: ServiceContext) -> dict[str, BundleInForce]:
    rows = await context.rows(select(IN_FORCE.table.c.id))
    found = [await load_state(context, IN_FORCE, row.id) for row in rows]
    return {each.blueprint: each for each in found if each is not None}


async def _current(context: ServiceContext, blueprint: str) -> Bundle | None:
    active = await load_state(context, IN_FORCE, blueprint)
    bundle = await load_state(context, BUNDLES, active.bundle_hash) if active else None
    return bundle.content if bundle else None


async def _content(context: ServiceContext, body: BundleBody) -> Bundle:
    """Returns the bundle of a request in canonical form. Raises Problem, BlueprintUnknownError and BundleFileError."""
    if body.content is not None and body.files is None and body.blueprint is None:
        return await asyncio.to_thread(canonical_bundle, body.content)
    if body.files is None or body.blueprint is None or body.content is not None:
        raise Problem(422, "invalid_body", "send `files` and `blueprint`, or `content` alone")
    blueprint = bundles.known_blueprint(await load_state(context, BLUEPRINTS, body.blueprint), body.blueprint)
    return await asyncio.to_thread(read_bundle, body.files, blueprint.content)


def canonical_bundle(content: dict[str, Any]) -> Bundle:
    """Returns a bundle that is sent in canonical form. Raises Problem for another shape or an unknown field."""
    try:
        bundle = Bundle.model_validate_json(canonical(content))
    except ValidationError as error:
        raise Problem(422, "invalid_bundle", explain(error)) from None
    except TypeError as error:  # a number of more than 64 bits, half a surrogate pair, or 255 levels
        raise Problem(422, "invalid_bundle", f"the content is no canonical JSON: {error}") from None
    if unknown := list(_unknown(content, bundle.model_dump(mode="json"), "")):
        raise Problem(422, "invalid_bundle", f"{', '.join(unknown[:5])}: there is no such field")
    return bundle


def _unknown(sent: Any, kept: Any, path: str) -> Iterator[str]:
    if isinstance(sent, dict):
        for name, value in sent.items():
            if name not in kept:
                yield f"{path}{name}"
            else:
                yield from _unknown(value, kept[name], f"{path}{name}.")
    elif isinstance(sent, list):
        for index, value in enumerate(sent):
            yield from _unknown(value, kept[index], f"{path}{index}.")
