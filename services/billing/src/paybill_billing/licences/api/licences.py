"""HTTP routes of licences: issue, show, renew and revoke licences, and activate machines."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, status
from paybill_contracts.licences import RevocationOrigin
from paybill_contracts.values import TenantId
from paybill_licence import KeyId, LicenceId
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.caller import Caller
from paybill_runtime.http.listing import Limit, load_page, load_state
from paybill_runtime.http.router import Router

from paybill_billing.entitlements.domain.entitlements import NothingEntitledError
from paybill_billing.entitlements.tables import ENTITLEMENTS
from paybill_billing.http import DryRun, Operator, Viewer
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
from paybill_billing.subscriptions.tables import SUBSCRIPTIONS, account_of

DAY_S = 86_400


Decision = Callable[[Licence, datetime], list[LicenceEvent]]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes."""
    routes = Router(prefix="/v1", tags=["licences"])

    async def act(caller: Caller, licence_id: str, verb: str, decision: Decision, *, dry_run: bool) -> LicenceView:
        def decide(unit: UnitOfWork, at: DecisionContext) -> LicenceView:
            licence = _existing(unit.get(LICENCES, licence_id), licence_id)
            return _apply(unit, licence, decision(licence, at.now), dry_run=dry_run)

        return await context.decide(
            caller.origin,
            decide,
            writes=[LICENCES.key(licence_id)],
            verb="" if dry_run else verb,
            target=licence_id,
            idempotency=None if dry_run else caller.idempotency,
            response_type=LicenceView,
        )

    @routes.post("/tenants/{tenant_id}/licences", status_code=status.HTTP_202_ACCEPTED)
    async def issue(tenant_id: TenantId, body: IssueBody, caller: Operator, *, dry_run: DryRun = False) -> LicenceView:
        """Issues the licence of the tenant's entitling subscription. It is signed asynchronously.

        An existing licence is reissued if its seats or its validity differ. Refused with
        `subscription_gives_no_access`.
        """
        entitlements = await load_state(context, ENTITLEMENTS, tenant_id)
        if entitlements is None:
            await account_of(context, tenant_id)
            raise NothingEntitledError(f"{tenant_id} has no subscription yet; a licence needs a subscription")
        subscription_id = entitlements.subscription_id
        licence_id = licences.licence_id(subscription_id)
        valid_s = context.settings.licence_valid_s if body.valid_days is None else body.valid_days * DAY_S

        def decide(unit: UnitOfWork, at: DecisionContext) -> LicenceView:
            licence = unit.get(LICENCES, licence_id)
            entitlements, state = unit.get(ENTITLEMENTS, tenant_id), unit.get(SUBSCRIPTIONS, subscription_id)
            if entitlements is None or state is None:
                raise NothingEntitledError(f"{tenant_id} has no subscription")
            events = licences.issue(
                licence, entitlements, state.subscription, seats=body.seats, valid_s=valid_s, now=at.now
            )
            return _apply(unit, licence, events, dry_run=dry_run)

        return await context.decide(
            caller.origin,
            decide,
            writes=[LICENCES.key(licence_id)],
            reads=[ENTITLEMENTS.key(tenant_id), SUBSCRIPTIONS.key(subscription_id)],
            verb="" if dry_run else "issue_licence",
            target=tenant_id,
            idempotency=None if dry_run else caller.idempotency,
            response_type=LicenceView,
        )

    @routes.get("/licences")
    async def show_all(
        _: Viewer,
        tenant: Annotated[TenantId | None, Query(description="Only licences of this tenant.")] = None,
        status_: Annotated[Status | None, Query(alias="status", description="Only licences with this status.")] = None,
        kid: Annotated[KeyId | None, Query(description="Only licences signed by this key.")] = None,
        after: Annotated[LicenceId | None, Query(description="Only ids after this one.")] = None,
        limit: Limit = 50,
    ) -> LicencePage:
        """Lists licences ordered by id, one page at a time."""
        issued, next_ = await load_page(context, LICENCES, after, limit, tenant_id=tenant, status=status_, kid=kid)
        return LicencePage(licences=[LicenceView.of(licence) for licence in issued], next=next_)

    @routes.get("/licences/{licence_id}")
    async def show(licence_id: LicenceId, _: Viewer) -> WholeLicenceView:
        """Shows a licence, its signed text included."""
        return WholeLicenceView.of(await licence_of(licence_id))

    @routes.get("/licences/{licence_id}/activations")
    async def show_activations(licence_id: LicenceId, _: Viewer) -> list[ActivationView]:
        """Lists the activated machines, the most recently active one last."""
        return WholeLicenceView.of(await licence_of(licence_id)).activations

    @routes.post("/licences/{licence_id}/renew")
    async def renew(licence_id: LicenceId, caller: Operator, *, dry_run: DryRun = False) -> LicenceView:
        """Renews a licence now; the service does so itself when a third of the validity is left.

        Refused with `licence_taken_back`, and with `subscription_gives_no_access` while the licence is lapsing.
        """
        return await act(caller, licence_id, "renew_licence", licences.renew, dry_run=dry_run)

    @routes.post("/licences/{licence_id}/revoke")
    async def revoke(
        licence_id: LicenceId, body: ReasonBody, caller: Operator, *, dry_run: DryRun = False
    ) -> LicenceView:
        """Revokes a licence: adds it to the signed revocation list and ends its renewal. It can be issued again."""

        def decision(licence: Licence, _: datetime) -> list[LicenceEvent]:
            return licences.revoke(licence, body.reason, RevocationOrigin.OPERATOR)

        return await act(caller, licence_id, "revoke_licence", decision, dry_run=dry_run)

    @routes.post("/licences/{licence_id}/activate")
    async def activate(
        licence_id: LicenceId, body: MachineBody, caller: Operator, *, dry_run: DryRun = False
    ) -> LicenceView:
        """Activates a machine on a seat; repeated for the same machine, it records a sign of life.

        Refused with `no_seat_left`, `licence_not_in_force`, `licence_taken_back`.
        """
        return await act(
            caller,
            licence_id,
            "activate_machine",
            lambda licence, now: seats.activate(licence, body.machine, now),
            dry_run=dry_run,
        )

    @routes.post("/licences/{licence_id}/deactivate")
    async def deactivate(
        licence_id: LicenceId, body: MachineBody, caller: Operator, *, dry_run: DryRun = False
    ) -> LicenceView:
        """Releases a machine's seat."""
        return await act(
            caller,
            licence_id,
            "deactivate_machine",
            lambda licence, _: seats.deactivate(licence, body.machine),
            dry_run=dry_run,
        )

    async def licence_of(licence_id: str) -> Licence:
        return _existing(await load_state(context, LICENCES, licence_id), licence_id)

    return routes


def _existing(licence: Licence | None, licence_id: str) -> Licence:
    if licence is None:
        raise LicenceNotFoundError(f"there is no licence {licence_id}; list them with: paybill licence list")
    return licence


def _apply(unit: UnitOfWork, licence: Licence | None, events: list[LicenceEvent], *, dry_run: bool) -> LicenceView:
    """Returns the licence after `events`, and records them unless it is a dry run."""
    after = licence
    for event in events:
        after = licences.evolve(after, event)
    if after is None:
        raise TypeError("an issued licence exists")
    if not dry_run:
        unit.record(LICENCES, after.id, events)
    return LicenceView.of(after, dry_run=dry_run)
