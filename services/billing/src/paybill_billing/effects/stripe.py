"""Stripe, through its official library: customers, prices, checkouts, and a subscription as it is now."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import stripe
from paybill_contracts.catalogue import PlanVersion, Price
from typing_extensions import override

from paybill_billing.domain.accounts import Opened
from paybill_billing.domain.catalogue import lookup_key
from paybill_billing.domain.subscriptions import Seen
from paybill_billing.effects import Order, ProviderAwayError, ProviderRefusedError, shapes
from paybill_billing.effects.shapes import PLAN, TENANT, VERSION

if TYPE_CHECKING:  # these descriptions of parameters are 1 MB
    from stripe.params.checkout import SessionCreateParams, SessionCreateParamsSubscriptionData

NAME = "stripe"
PAGE = 100
BUSY_S = 2.0
AWAY_S = 5.0
KEY_REFUSED_S = 30.0

TIMEOUT_S = 20.0
"""To connect, and again to answer."""


class PacedClient(stripe.HTTPXClient):
    """The library's own client, that lets a request go only when its turn has come."""

    def __init__(self, per_s: float) -> None:
        super().__init__(timeout=TIMEOUT_S)
        self._gap_s = 1 / per_s
        self._next = 0.0

    @override
    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        turn = max(self._next, time.monotonic())
        self._next = turn + self._gap_s
        await asyncio.sleep(turn - time.monotonic())
        return await super().request_async(method, url, headers, post_data)


class Stripe:
    """One account at Stripe. The library's own retries are off: they know neither our pace nor who waits."""

    def __init__(self, api_key: str, api_base: str, return_url: str, per_s: float) -> None:
        # Nothing is told that nobody asked for; otherwise the library also writes an id into the home directory.
        stripe.enable_telemetry = False
        self._http = PacedClient(per_s)
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base} if api_base else None,
            http_client=self._http,
            max_network_retries=0,
        )
        self._return_url = return_url
        self._prices: dict[str, str] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the library leaves it untyped

    async def open(self, order: Order, key: str) -> Opened:
        """Make the customer and a checkout for it, once for each `key`.

        Raises ProviderRefusedError, ProviderAwayError.
        """
        with _answers():
            customer = await self._customer(order, key)
            price = await self._price(order)
            session = await self._checkout(order, customer, price, key)
        if session.url is None:
            raise ProviderRefusedError(f"checkout {session.id} has no address")
        return Opened(customer=customer, checkout=session.id, checkout_url=session.url)

    async def look(self, subscription: str) -> Seen | None:
        """The subscription as it is now. Raises ProviderAwayError, ProviderRefusedError, ShapeError."""
        try:
            with _answers():
                # As it came: the library's object of objects costs more than all the rest of a look.
                found = await self._client.raw_request_async("get", f"/v1/subscriptions/{quote(subscription, safe='')}")
        except MissingError:
            return None
        return shapes.seen(found.data)

    async def leave(self, customer: str) -> None:
        """Close every checkout, so that nothing new begins; then cancel what there is. Doing it twice is no error."""
        v1 = self._client.v1
        with _answers(), suppress(MissingError):
            sessions = await v1.checkout.sessions.list_async({"customer": customer, "status": "open", "limit": PAGE})
            async for session in sessions.auto_paging_iter():
                with _still_there():
                    await v1.checkout.sessions.expire_async(session.id)
            subscriptions = await v1.subscriptions.list_async({"customer": customer, "limit": PAGE})
            async for subscription in subscriptions.auto_paging_iter():
                with _still_there():
                    await v1.subscriptions.cancel_async(subscription.id)

    async def _customer(self, order: Order, key: str) -> str:
        """Looked for first: Stripe forgets an idempotency key after a day, and an effect may be tried after that."""
        customers = self._client.v1.customers
        same_address = await customers.list_async({"email": order.email, "limit": PAGE})
        async for customer in same_address.auto_paging_iter():
            if (customer.to_dict().get("metadata") or {}).get(TENANT) == order.tenant_id:
                return customer.id
        made = await customers.create_async(
            {"email": order.email, "name": order.name, "metadata": {TENANT: order.tenant_id}},
            {"idempotency_key": f"{key}/customer"},
        )
        return made.id

    async def _price(self, order: Order) -> str:
        """The id of the first price of the plan; made at Stripe when nobody has bought it yet."""
        plan, price = order.plan, order.plan.prices[0]
        name = lookup_key(plan, price)
        known = price.provider_prices.get(NAME) or self._prices.get(name)
        if known is None:
            known = self._prices[name] = await self._found(name, price) or await self._made(order.product, plan, price)
        return known

    async def _found(self, name: str, price: Price) -> str | None:
        page = await self._client.v1.prices.list_async({"lookup_keys": [name], "active": True, "limit": 1})
        for found in page.data:
            if (found.unit_amount, found.currency.upper()) != (price.amount.minor, price.amount.currency):
                raise ProviderRefusedError(f"price {found.id} is called {name} and costs something else than the plan")
            return found.id
        return None

    async def _made(self, product: str, plan: PlanVersion, price: Price) -> str:
        name = lookup_key(plan, price)
        made = await self._client.v1.prices.create_async(
            {
                "product": await self._product(f"{product}_{plan.plan}", plan),
                "currency": price.amount.currency.lower(),
                "unit_amount": price.amount.minor,
                "recurring": {"interval": price.interval.value},
                "lookup_key": name,
                "metadata": {PLAN: plan.plan, VERSION: str(plan.version)},
            },
            {"idempotency_key": f"price/{name}"},
        )
        return made.id

    async def _product(self, id_: str, plan: PlanVersion) -> str:
        products = self._client.v1.products
        try:
            with _answers():
                return (await products.retrieve_async(id_)).id
        except MissingError:
            made = await products.create_async(
                {"id": id_, "name": plan.name, "metadata": {PLAN: plan.plan}}, {"idempotency_key": f"product/{id_}"}
            )
            return made.id

    async def _checkout(self, order: Order, customer: str, price: str, key: str) -> stripe.checkout.Session:
        subscribed: SessionCreateParamsSubscriptionData = {"metadata": {TENANT: order.tenant_id}}
        if order.plan.trial_days:
            subscribed["trial_period_days"] = order.plan.trial_days
        wanted: SessionCreateParams = {
            "mode": "subscription",
            "customer": customer,
            "client_reference_id": order.tenant_id,
            "line_items": [{"price": price, "quantity": 1}],
            "subscription_data": subscribed,
            "success_url": self._return_url,
            "cancel_url": self._return_url,
        }
        return await self._client.v1.checkout.sessions.create_async(wanted, {"idempotency_key": f"{key}/checkout"})


class MissingError(ProviderRefusedError):
    """Stripe has no object of this id."""


@contextmanager
def _answers() -> Iterator[None]:
    """What Stripe's errors mean for us. Their words and bodies end here: they quote what was sent."""
    try:
        yield
    except stripe.RateLimitError as error:
        raise ProviderAwayError(_retry_after(error), f"Stripe is busy ({_codes(error)})") from None
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise ProviderAwayError(KEY_REFUSED_S, f"Stripe does not take our API key ({_codes(error)})") from None
    except stripe.APIConnectionError as error:
        why = type(error.__cause__ or error.__context__ or error).__name__
        raise ProviderAwayError(AWAY_S, f"Stripe cannot be reached ({why})") from None
    except stripe.StripeError as error:
        if error.http_status == 404 or error.code == "resource_missing":  # noqa: PLR2004  # RFC 9110, section 15.5.5
            raise MissingError(f"Stripe does not have it ({_codes(error)})") from None
        again = error.code in {"resource_already_exists", "lock_timeout", "idempotency_key_in_use"}
        if again or error.http_status is None or error.http_status >= 500 or error.http_status == 409:  # noqa: PLR2004
            raise ProviderAwayError(BUSY_S, f"Stripe cannot do it now ({_codes(error)})") from None
        raise ProviderRefusedError(f"Stripe refuses ({_codes(error)})") from None


@contextmanager
def _still_there() -> Iterator[None]:
    """What is refused because it was paid or cancelled since it was listed: look again."""
    try:
        yield
    except stripe.InvalidRequestError as error:
        raise ProviderAwayError(BUSY_S, f"it changed while it was being cancelled ({_codes(error)})") from None


def _codes(error: stripe.StripeError) -> str:
    param = getattr(error, "param", None)
    said = [f"HTTP {error.http_status}", error.code, f"parameter {param}" if param else None, error.request_id]
    return ", ".join(str(part) for part in said if part)


def _retry_after(error: stripe.StripeError) -> float:
    """Seconds from the header Retry-After, at most ten minutes; Stripe does not always send it."""
    given = {name.lower(): value for name, value in (error.headers or {}).items()}.get("retry-after", "")
    return min(float(given), 600.0) if given.isascii() and given.isdigit() else BUSY_S
