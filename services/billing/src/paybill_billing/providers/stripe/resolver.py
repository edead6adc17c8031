"""Resolves Stripe's references: payments to their invoices, and subscriptions to their further items and schedule."""

import logging
from typing import Any
from urllib.parse import quote as quoted

import stripe

from paybill_billing.providers.port import MalformedObjectError, ProviderRefusedError, ResolvedReference
from paybill_billing.providers.port.snapshots import CollectionAttempt, Dispute, Refund
from paybill_billing.providers.stripe.client import MissingError, stripe_errors
from paybill_billing.providers.stripe.mappers import (
    FAILING,
    Json,
    attempt,
    customer_of,
    id_of,
    items_of,
    subscription_of,
)
from paybill_billing.providers.stripe.payment_mappers import (
    CHECKOUT,
    REFERRING_PATHS,
    charge_target,
    dispute,
    first_invoice,
    invoice_of,
    refund,
    related,
    target_of,
)

log = logging.getLogger(__name__)

PAGE = 100


def _referring(kind: str, found: Json) -> ResolvedReference:
    """Resolves an object that refers to a subscription. A checkout that expired without one is reported."""
    target = subscription_of({"object": kind, **found}) or charge_target({"object": kind, **found})
    is_expired = kind == CHECKOUT and found.get("status") == "expired" and target is None
    return ResolvedReference(
        target=target, customer=customer_of(found), expired_checkout=id_of(found) if is_expired else None
    )


class StripeReferenceResolver:
    """Resolves objects of one Stripe account to the subscription, invoice and customer that they belong to."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    async def resolve(self, kind: str, id_: str) -> ResolvedReference | None:
        """Returns the resolved reference; None when Stripe has no such object. Raises MalformedObjectError."""
        match kind:
            case "charge":
                return await self._charge(id_)
            case "refund":
                found = await self._find("/v1/refunds", id_, expand=["charge"])
                return await self._paid(found, [refund(found)]) if found is not None else None
            case "dispute":
                found = await self._find("/v1/disputes", id_, expand=["charge"])
                return await self._paid(found, [dispute(found)]) if found is not None else None
            case "event":
                found = await self._find("/v2/core/events", id_)
                named = related(found) if found is not None else None
                return ResolvedReference(target=target_of(*named)) if named is not None else None
            case _ if kind in REFERRING_PATHS:
                found = await self._find(REFERRING_PATHS[kind], id_)
                return _referring(kind, found) if found is not None else None
            case _:
                return ResolvedReference()

    async def failed_attempt(self, event_id: str, invoice: str) -> CollectionAttempt | None:
        """Returns the failed attempt of the event according to the current invoice."""
        found = await self._find("/v1/invoices", invoice)
        return attempt(event_id, found) if found is not None else None

    async def complete(self, subscription: Json) -> Json:
        """Returns the subscription with all its items, its expanded schedule and, if it is unpaid, its invoices."""
        complete = dict(subscription)
        items = subscription.get("items")
        if isinstance(items, dict) and items.get("has_more"):
            page = await self._get("/v1/subscription_items", subscription=subscription.get("id"), limit=PAGE)
            complete["items"] = page
        schedule = subscription.get("schedule")
        if isinstance(schedule, str) and items_of(complete):
            complete["schedule"] = await self._find(
                "/v1/subscription_schedules", schedule, expand=["phases.items.price"]
            )
        if subscription.get("status") in FAILING:
            complete["invoices"] = await self._get("/v1/invoices", subscription=subscription.get("id"), limit=PAGE)
        return complete

    async def _charge(self, id_: str) -> ResolvedReference | None:
        """Returns all refunds and disputes of a charge: since 2022-11-15 their events name only the charge."""
        charge = await self._find("/v1/charges", id_)
        if charge is None:
            return None
        refunds = (await self._get("/v1/refunds", charge=id_, limit=PAGE)).get("data", [])
        disputed = charge.get("disputed") or charge.get("dispute")
        disputes = (await self._get("/v1/disputes", charge=id_, limit=PAGE)).get("data", []) if disputed else []
        return await self._paid({"charge": charge}, [*map(refund, refunds), *map(dispute, disputes)])

    async def _paid(self, found: Json, reversals: list[Refund | Dispute | None]) -> ResolvedReference:
        """Resolves a payment to its invoice and subscription, by the charge or its payment, or only to its customer."""
        charge = found.get("charge")
        charge = charge if isinstance(charge, dict) else {}
        invoice = await self._invoice(
            invoice_of(charge), id_of(found.get("payment_intent") or charge.get("payment_intent"))
        )
        holders = (charge, invoice or {}, found)
        return ResolvedReference(
            reversals=tuple(each for each in reversals if each is not None),
            customer=next((customer for holder in holders if (customer := customer_of(holder))), None),
            subscription=subscription_of({"object": "invoice", **invoice}) if invoice else None,
            invoice=id_of(invoice),
        )

    async def _invoice(self, invoice: str | None, intent: str | None) -> Json | None:
        if invoice is not None:
            return await self._find("/v1/invoices", invoice)
        if intent is None:
            return None
        payment = {"type": "payment_intent", "payment_intent": intent}
        try:
            page = await self._get("/v1/invoice_payments", payment=payment, limit=1, expand=["data.invoice"])
        except ProviderRefusedError as error:
            # A refund without its invoice is better than no refund.
            log.warning("the invoice of %s cannot be fetched: %s", intent, error)
            return None
        return first_invoice(page)

    async def _find(self, path: str, id_: str, **more: Any) -> Json | None:
        try:
            return await self._get(f"{path}/{quoted(id_, safe='')}", **more)
        except MissingError:
            return None

    async def _get(self, path: str, **more: Any) -> Json:
        with stripe_errors():
            found = (await self._client.raw_request_async("get", path, **more)).data
        if not isinstance(found, dict):
            raise MalformedObjectError(f"{path} is not an object")
        return found
