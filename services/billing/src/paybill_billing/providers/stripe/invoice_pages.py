"""Fetches Stripe's invoices with all their lines, and what they show about paid time."""

from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any
from urllib.parse import quote as quoted

import stripe
from paybill_contracts.changes import UnpaidTime

from paybill_billing.providers.stripe import paid_time
from paybill_billing.providers.stripe.client import stripe_errors
from paybill_billing.providers.stripe.mappers import Json, id_of
from paybill_billing.providers.stripe.pages import all_of, lines_of
from paybill_billing.providers.stripe.payment_mappers import takes_money
from paybill_billing.providers.stripe.previews import money

_MARGIN = timedelta(days=1)
"""The invoice of a period may be a little older than the period."""


class StripeInvoices:
    """The invoices of one Stripe account."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    async def all(self, **which: Any) -> list[Json]:
        """Returns the invoices, oldest first, each with all its lines."""
        with stripe_errors():
            found = [each async for each in all_of(self._client, "/v1/invoices", **which)]
            return [await self._complete(each) for each in reversed(found)]

    async def unpaid_time(
        self, subscription: str, starts: datetime, preview: Json | None, at: datetime
    ) -> UnpaidTime | None:
        """Returns what the preview of a change credits from `at` on, and was not paid; None when all was paid.

        starts: of the current period. What went back by a refund or a dispute is not paid either.
        """
        since = int(at.timestamp())
        if preview is None or not list(paid_time.unpaid_credits(preview, [], since=since)):
            return None
        created = {"gte": int((starts - _MARGIN).timestamp())}
        invoices = await self.all(subscription=subscription, created=created, expand=["data.payments"])
        with stripe_errors():
            shares = [(each, await self._share(each)) for each in invoices]
        unpaid = list(paid_time.unpaid_credits(preview, shares, since=since))
        if not unpaid:
            return None
        amount = money(preview, sum(each.minor for each in unpaid))
        return UnpaidTime(amount=amount, reason=paid_time.reason_of(unpaid[0], shares))

    async def _share(self, invoice: Json) -> Fraction:
        """Returns the part of an invoice that is paid, and did not go back."""
        if not paid_time.is_settled(invoice):
            return Fraction(0)
        returned = 0
        for payment in (invoice.get("payments") or {}).get("data") or ():
            if (intent := id_of((payment.get("payment") or {}).get("payment_intent"))) is None:
                continue
            path = f"/v1/payment_intents/{quoted(intent, safe='')}"
            found = await self._client.raw_request_async("get", path, expand=["latest_charge"])
            charge = found.data.get("latest_charge") or {}
            returned += charge.get("amount_refunded") or 0
            if charge.get("disputed"):
                disputes = [each async for each in all_of(self._client, "/v1/disputes", payment_intent=intent)]
                returned += sum(each["amount"] for each in disputes if takes_money(each))
        return paid_time.paid_share(invoice, returned)

    async def _complete(self, invoice: Json) -> Json:
        """Returns the invoice with all lines."""
        lines = [each async for each in lines_of(self._client, invoice)]
        return {**invoice, "lines": {**invoice["lines"], "data": lines}}
