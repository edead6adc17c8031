"""Reports usage to Stripe's meters, and reads their totals and the usage on invoices.

Source: https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage. The name of our meter is Stripe's
`event_name`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import quote as quoted

import stripe

from paybill_billing.providers.port import InvoicedUsage, MeterReading, ProviderRefusedError
from paybill_billing.providers.stripe.client import stripe_errors
from paybill_billing.providers.stripe.mappers import Json, price_of_line
from paybill_billing.providers.stripe.pages import PAGE, all_of, lines_of

MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class _Meter:
    """A meter, and the fields of an event's payload for the customer and the quantity."""

    id: str
    customer_field: str
    value_field: str


class StripeMeters:
    """The meters of one account."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client
        self._known: dict[str, _Meter] = {}
        self._metered_prices: dict[str, str | None] = {}

    async def id_of(self, name: str) -> str:
        """Returns the id of the active meter with this event name; creates the meter for the first price of it."""
        await self._load(name)
        if name not in self._known:
            made = await self._client.v1.billing.meters.create_async(
                {
                    "display_name": name,
                    "event_name": name,
                    # One event for each part of a window, whatever our own aggregation is.
                    "default_aggregation": {"formula": "sum"},
                },
                {"idempotency_key": f"meter/{name}"},
            )
            self._add(made)
        return self._known[name].id

    async def report(self, reading: MeterReading, key: str) -> None:
        """Adds to the customer's meter, once for each `key`: Stripe keeps an event's identifier for at least a day.

        Raises ProviderRefusedError, also for a reading older than the 35 days that Stripe accepts.
        """
        with stripe_errors():
            meter = await self._meter(reading.meter)
            try:
                await self._client.v1.billing.meter_events.create_async(
                    {
                        "event_name": reading.meter,
                        "identifier": key,
                        "timestamp": int(reading.at.timestamp()),
                        "payload": {
                            meter.customer_field: reading.customer,
                            meter.value_field: str(reading.quantity),
                        },
                    },
                    {"idempotency_key": key},
                )
            except stripe.InvalidRequestError as error:
                # This error has no code; only its message with our identifier distinguishes it from other refusals.
                if "already exists" not in str(error) or key not in str(error):
                    raise

    async def reported(self, meter: str, customer: str, since: datetime, until: datetime) -> int:
        """Returns Stripe's total from the minute of `since` to the end of the minute of `until`; it lags a little."""
        minutes = {
            "start_time": int(since.timestamp()) // MINUTE_S * MINUTE_S,
            "end_time": -(-int(until.timestamp()) // MINUTE_S) * MINUTE_S,
        }
        total = Decimal(0)
        with stripe_errors():
            id_ = (await self._meter(meter)).id
            path = f"/v1/billing/meters/{id_}/event_summaries"
            async for summary in all_of(self._client, path, customer=customer, **minutes):
                total += Decimal(str(summary["aggregated_value"]))
        return int(total)

    async def invoiced(self, customer: str, since: datetime) -> tuple[InvoicedUsage, ...]:
        """Returns the lines of metered prices on the customer's invoices since then, drafts included."""
        found: list[InvoicedUsage] = []
        with stripe_errors():
            invoices = all_of(self._client, "/v1/invoices", customer=customer, created={"gte": int(since.timestamp())})
            async for invoice in invoices:
                if invoice["status"] != "void":
                    found += [line async for line in self._usage_lines(invoice)]
        return tuple(found)

    async def _usage_lines(self, invoice: Json) -> AsyncIterator[InvoicedUsage]:
        async for line in lines_of(self._client, invoice):
            meter = await self.of_price(price_of_line(line))
            if meter is not None:
                yield InvoicedUsage(
                    meter=meter,
                    quantity=int(line["quantity"] or 0),
                    start=datetime.fromtimestamp(line["period"]["start"], UTC),
                    end=datetime.fromtimestamp(line["period"]["end"], UTC),
                    invoice=str(invoice["id"]),
                    final=invoice["status"] != "draft",
                )

    async def of_price(self, price: str | None) -> str | None:
        """Returns the event name of a metered price's meter; None for another price."""
        if price is None:
            return None
        if price not in self._metered_prices:
            response = await self._client.raw_request_async("get", f"/v1/prices/{quoted(price, safe='')}")
            meter = (response.data.get("recurring") or {}).get("meter")
            name = None
            if meter is not None:
                response = await self._client.raw_request_async("get", f"/v1/billing/meters/{quoted(meter, safe='')}")
                name = str(response.data["event_name"])
            self._metered_prices[price] = name
        return self._metered_prices[price]

    async def _load(self, name: str) -> None:
        if name not in self._known:
            meters = await self._client.v1.billing.meters.list_async({"status": "active", "limit": PAGE})
            async for found in meters.auto_paging_iter():
                self._add(found)

    def _add(self, meter: stripe.billing.Meter) -> None:
        self._known[meter.event_name] = _Meter(
            meter.id, meter.customer_mapping.event_payload_key, meter.value_settings.event_payload_key
        )

    async def _meter(self, name: str) -> _Meter:
        await self._load(name)
        if name not in self._known:
            raise ProviderRefusedError(f"Stripe has no active meter with the event name {name}; create it at Stripe")
        return self._known[name]
