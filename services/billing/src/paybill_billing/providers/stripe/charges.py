"""Objects of Stripe that can charge a customer without a subscription, and their removal."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import assert_never

import stripe
from paybill_contracts.accounts import LeftoverKind

from paybill_billing.providers.port.snapshots import PendingCharge
from paybill_billing.providers.stripe.client import MissingError, stripe_errors

PAGE = 100


class StripeCharges:
    """The open checkouts, schedules that have not started, and pending invoice items of one Stripe account."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._v1 = client.v1

    async def of(self, customer: str) -> tuple[PendingCharge, ...]:
        """Returns those of one customer; none for a customer that was deleted."""
        found: list[PendingCharge] = []
        try:
            with stripe_errors():
                found += [charge async for charge in self.opening(customer)]
                items = await self._v1.invoice_items.list_async({"customer": customer, "pending": True, "limit": PAGE})
                found += [PendingCharge(LeftoverKind.INVOICE_ITEM, item.id) async for item in items.auto_paging_iter()]
        except MissingError:
            return ()
        return tuple(found)

    async def opening(self, customer: str) -> AsyncIterator[PendingCharge]:
        """Yields what can begin a subscription of the customer."""
        sessions = await self._v1.checkout.sessions.list_async({"customer": customer, "status": "open", "limit": PAGE})
        async for session in sessions.auto_paging_iter():
            yield PendingCharge(LeftoverKind.CHECKOUT, session.id)
        schedules = await self._v1.subscription_schedules.list_async(
            {"customer": customer, "scheduled": True, "limit": PAGE}
        )
        async for schedule in schedules.auto_paging_iter():
            yield PendingCharge(LeftoverKind.SCHEDULE, schedule.id)

    async def remove(self, charge: PendingCharge) -> None:
        """Expires, cancels or deletes it. One that is gone, or was paid or invoiced meanwhile, is no error."""
        with suppress(MissingError), stripe_errors():
            try:
                await self._remove(charge)
            except stripe.InvalidRequestError:
                if await self._is_pending(charge):
                    raise

    async def _remove(self, charge: PendingCharge) -> None:
        match charge.kind:
            case LeftoverKind.CHECKOUT:
                await self._v1.checkout.sessions.expire_async(charge.id)
            case LeftoverKind.SCHEDULE:
                await self._v1.subscription_schedules.cancel_async(charge.id)
            case LeftoverKind.INVOICE_ITEM:
                await self._v1.invoice_items.delete_async(charge.id)
            case LeftoverKind.SUBSCRIPTION:
                await self._v1.subscriptions.cancel_async(charge.id)
            case _:
                assert_never(charge.kind)

    async def _is_pending(self, charge: PendingCharge) -> bool:
        match charge.kind:
            case LeftoverKind.CHECKOUT:
                return (await self._v1.checkout.sessions.retrieve_async(charge.id)).status == "open"
            case LeftoverKind.SCHEDULE:
                return (await self._v1.subscription_schedules.retrieve_async(charge.id)).status == "not_started"
            case LeftoverKind.INVOICE_ITEM:
                return (await self._v1.invoice_items.retrieve_async(charge.id)).invoice is None
            case LeftoverKind.SUBSCRIPTION:
                return (await self._v1.subscriptions.retrieve_async(charge.id)).status != "canceled"
            case _:
                assert_never(charge.kind)
