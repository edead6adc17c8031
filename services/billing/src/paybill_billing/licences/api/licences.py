"""HTTP of licences: issue, look, renew, revoke, activate machines."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, status
from paybill_contracts.licences import RevocationOrigin
from paybill_contracts.values import TenantId
from paybill_licence import KeyId, LicenceId
from paybill_runtime.decisions.context import Caller, ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork

from paybill_billing.entitlements.domain.entitlements import NothingEntitledError
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.licences.api.views import (
    ActivationView,
    IssueBody,
    LicencePage,
    LicenceView,
    MachineBody,
    ReasonBody,
    WholeLicenceView,
)
from paybill_billing.licences.domain import licences, seats
from paybill_billing.licences.domain.licences import Licence, LicenceEvent, LicenceNotFoundError, Status
from paybill_billing.licences.tables import LICENCES
from paybill_billing.reading import DryRun, Limit, Reader, Writer, account_of, found, page
from paybill_billing.subscriptions.tables import SUBSCRIPTIONS

DAY_S = 86_400


Decision = Callable[[Licence, datetime], list[LicenceEvent]]


def router(context: ServiceContext) -> APIRouter:
    """The routes, on this edge."""
    routes = APIRouter(prefix="/v1", tags=["licences"])

    async def act(who: Caller, licence_id: str, verb: str, decision: Decision, *, dry_run: bool) -> LicenceView:
        def decide(unit: UnitOfWork, at: DecisionContext) -> LicenceView:
            known = _existing(unit.get(LICENCES, licence_id), licence_id)
            return _come_of(unit, known, decision(known, at.now), dry_run=dry_run)

        return await context.decide(
            who.origin,
            decide,
            writes=[LICENCES.key(licence_id)],
            verb="" if dry_run else verb,
            target=licence_id,
            idempotency=None if dry_run else who.idempotency,
            response_type=LicenceView,
        )

    @routes.post("/tenants/{tenant_id}/licences", status_code=status.HTTP_202_ACCEPTED)
    async def issue(tenant_id: TenantId, body: IssueBody, who: Writer, *, dry_run: DryRun = False) -> LicenceView:
        """Issue the licence of the subscription that entitles the tenant. It is signed a moment later.

        Issued already, it is reissued if its seats or its life are to be others. Refused with
        `subscription_gives_no_access`.
        """
        entitled = await found(context, ENTITLEMENTS, tenant_id)
        if entitled is None:
            await account_of(context, tenant_id)
            raise NothingEntitledError(
                f"{tenant_id} has not subscribed to anything yet; a licence needs a subscription"
            )
        subscription_id = entitled.subscription_id
        licence_id = licences.licence_id(subscription_id)
        valid_s = context.settings.licence_valid_s if body.valid_days is None else body.valid_days * DAY_S

        def decide(unit: UnitOfWork, at: DecisionContext) -> LicenceView:
            known = unit.get(LICENCES, licence_id)
            held, standing = unit.get(ENTITLEMENTS, tenant_id), unit.get(SUBSCRIPTIONS, subscription_id)
            if held is None or standing is None:
                raise NothingEntitledError(f"{tenant_id} has not subscribed to anything")
            events = licences.issue(known, held, standing.subscription, seats=body.seats, valid_s=valid_s, now=at.now)
            return _come_of(unit, known, events, dry_run=dry_run)

        return await context.decide(
            who.origin,
            decide,
            writes=[LICENCES.key(licence_id)],
            reads=[ENTITLEMENTS.key(tenant_id), SUBSCRIPTIONS.key(subscription_id)],
            verb="" if dry_run else "issue_licence",
            target=tenant_id,
            idempotency=None if dry_run else who.idempotency,
            response_type=LicenceView,
        )

    @routes.get("/licences")
    async def show_all(
        _: Reader,
        tenant: Annotated[TenantId | None, Query(description="Only those of this tenant.")] = None,
        standing: Annotated[Status | None, Query(alias="status", description="Only those that stand here.")] = None,
        kid: Annotated[KeyId | None, Query(description="Only those that this key signed.")] = None,
        after: Annotated[LicenceId | None, Query(description="Only ids behind this one.")] = None,
        limit: Limit = 50,
    ) -> LicencePage:
        """Licences in the order of their ids, a page at a time."""
        issued, next_ = await page(context, LICENCES, after, limit, tenant_id=tenant, status=standing, kid=kid)
        return LicencePage(licences=[LicenceView.of(licence) for licence in issued], next=next_)

    @routes.get("/licences/{licence_id}")
    async def show(licence_id: LicenceId, _: Reader) -> WholeLicenceView:
        """A licence, with the text that its holder gets."""
        return WholeLicenceView.of(await licence_of(licence_id))

    @routes.get("/licences/{licence_id}/activations")
    async def show_activations(licence_id: LicenceId, _: Reader) -> list[ActivationView]:
        """The machines that use its seats, the one that was seen last at the end."""
        return WholeLicenceView.of(await licence_of(licence_id)).activations

    @routes.post("/licences/{licence_id}/renew")
    async def renew(licence_id: LicenceId, who: Writer, *, dry_run: DryRun = False) -> LicenceView:
        """Sign it anew now; by itself that is done when a third of its life is left.

        Refused with `licence_taken_back`, and with `subscription_gives_no_access` while it lapses.
        """
        return await act(who, licence_id, "renew_licence", licences.renew, dry_run=dry_run)

    @routes.post("/licences/{licence_id}/revoke")
    async def revoke(licence_id: LicenceId, body: ReasonBody, who: Writer, *, dry_run: DryRun = False) -> LicenceView:
        """Take it back: it goes on the signed list, and is renewed no more. It can be issued again."""

        def decision(known: Licence, _: datetime) -> list[LicenceEvent]:
            return licences.revoke(known, body.reason, RevocationOrigin.OPERATOR)

        return await act(who, licence_id, "revoke_licence", decision, dry_run=dry_run)

    @routes.post("/licences/{licence_id}/activate")
    async def activate(
        licence_id: LicenceId, body: MachineBody, who: Writer, *, dry_run: DryRun = False
    ) -> LicenceView:
        """Let a machine use a seat; again for the same machine says that it was seen.

        Refused with `no_seat_left`, `licence_not_in_force`, `licence_taken_back`.
        """
        return await act(
            who,
            licence_id,
            "activate_machine",
            lambda known, now: seats.activate(known, body.machine, now),
            dry_run=dry_run,
        )

    @routes.post("/licences/{licence_id}/deactivate")
    async def deactivate(
        licence_id: LicenceId, body: MachineBody, who: Writer, *, dry_run: DryRun = False
    ) -> LicenceView:
        """Give a machine's seat back."""
        return await act(
            who,
            licence_id,
            "deactivate_machine",
            lambda known, _: seats.deactivate(known, body.machine),
            dry_run=dry_run,
        )

    async def licence_of(licence_id: str) -> Licence:
        return _existing(await found(context, LICENCES, licence_id), licence_id)

    return routes


def _existing(known: Licence | None, licence_id: str) -> Licence:
    if known is None:
        raise LicenceNotFoundError(f"there is no licence {licence_id}; see them with: paybill licence list")
    return known


def _come_of(unit: UnitOfWork, known: Licence | None, events: list[LicenceEvent], *, dry_run: bool) -> LicenceView:
    """The licence after `events`, which are recorded unless it is only a try."""
    after = known
    for event in events:
        after = licences.evolve(after, event)
    if after is None:
        raise TypeError("a licence that is issued is there")
    if not dry_run:
        unit.record(LICENCES, after.id, events)
    return LicenceView.of(after, dry_run=dry_run)
