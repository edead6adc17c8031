"""HTTP routes of signing keys: list and rotate."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, status
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.auth import Role
from paybill_runtime.http.caller import Caller, caller
from paybill_runtime.http.listing import load_state
from paybill_runtime.http.router import Router

from paybill_billing.http import DryRun, Viewer
from paybill_billing.licences.api.views import KeyringView, RotateBody
from paybill_billing.licences.domain import licence_keys
from paybill_billing.licences.domain.licence_keys import KEYRING
from paybill_billing.licences.tables import KEYRINGS, LONGEST_VALIDITY

Admin = Annotated[Caller, Depends(caller(Role.ADMIN, "billing:write"))]


def router(context: ServiceContext) -> APIRouter:
    """Returns the routes."""
    routes = Router(prefix="/v1/licence-keys", tags=["licences"])

    @routes.get("")
    async def show_keys(_: Viewer) -> KeyringView:
        """Lists all keys, the retired ones included; `/.well-known/license-keys.json` lists the trusted ones."""
        return KeyringView.of(await load_state(context, KEYRINGS, KEYRING))

    @routes.post("/rotate", status_code=status.HTTP_202_ACCEPTED)
    async def rotate(body: RotateBody, caller: Admin, *, dry_run: DryRun = False) -> KeyringView:
        """Requests a new key. The active key stays trusted until the last licence that it signed has expired."""
        longest = (await context.rows(LONGEST_VALIDITY))[0]
        valid_s = max(longest.valid_s or 0, context.settings.licence_valid_s)
        licences_end = datetime.fromisoformat(longest.ends) if longest.ends else None

        def decide(unit: UnitOfWork, _: DecisionContext) -> KeyringView:
            keyring = unit.get(KEYRINGS, KEYRING)
            events = licence_keys.rotate(
                keyring, body.reason, compromised=body.compromised, licences_end=licences_end, valid_s=valid_s
            )
            if dry_run:
                for event in events:
                    keyring = licence_keys.evolve(keyring, event)
                return KeyringView.of(keyring, dry_run=True)
            unit.record(KEYRINGS, KEYRING, events)
            return KeyringView.of(unit.get(KEYRINGS, KEYRING))

        return await context.decide(
            caller.origin,
            decide,
            writes=[KEYRINGS.key(KEYRING)],
            verb="" if dry_run else "rotate_licence_keys",
            target=KEYRING,
            idempotency=None if dry_run else caller.idempotency,
            response_type=KeyringView,
        )

    return routes
