"""Reports usage to Stripe's meters and reads their totals.

Source: https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage. The name of our meter is Stripe's
`event_name`.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import stripe

from paybill_billing.providers.port import MeterReading, ProviderRefusedError
from paybill_billing.providers.stripe.client import stripe_errors

PAGE = 100
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
        params: dict[str, Any] = {
            "customer": customer,
            "start_time": int(since.timestamp()) // MINUTE_S * MINUTE_S,
            "end_time": -(-int(until.timestamp()) // MINUTE_S) * MINUTE_S,
            "limit": PAGE,
        }
        total = Decimal(0)
        with stripe_errors():
            id_ = (await self._meter(meter)).id
            more = True
            while more:
                response = await self._client.raw_request_async(
                    "get", f"/v1/billing/meters/{id_}/event_summaries", **params
                )
                page = response.data
                total += sum(Decimal(str(summary["aggregated_value"])) for summary in page["data"])
                more = bool(page["has_more"] and page["data"])
                params["starting_after"] = page["data"][-1]["id"] if more else None
        return int(total)

    async def _meter(self, name: str) -> _Meter:
        if name not in self._known:
            meters = await self._client.v1.billing.meters.list_async({"status": "active", "limit": PAGE})
            async for found in meters.auto_paging_iter():
                self._known[found.event_name] = _Meter(
                    found.id, found.customer_mapping.event_payload_key, found.value_settings.event_payload_key
                )
        if name not in self._known:
            raise ProviderRefusedError(f"Stripe has no active meter with the event name {name}; create it at Stripe")
        return self._known[name]
