"""Adapter of the provider `stripe`, with Stripe's official library."""

import json
import logging
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote as quoted

import stripe
from paybill_contracts.changes import Proration
from paybill_contracts.money import Money

from paybill_billing.providers.port import (
    DeliveryRefusedError,
    DesiredSubscription,
    InvoicedUsage,
    MalformedObjectError,
    MeterReading,
    Order,
    ProviderRefusedError,
    Purchase,
    ResolvedReference,
    SnapshotPage,
    UndeliveredPage,
    price_of,
)
from paybill_billing.providers.port.snapshots import (
    CollectionAttempt,
    InvoiceTotals,
    OpenedAccount,
    OpenedCheckout,
    PendingCharge,
    ProviderSnapshot,
)
from paybill_billing.providers.stripe import mappers
from paybill_billing.providers.stripe.changes import StripeChanges
from paybill_billing.providers.stripe.charges import StripeCharges
from paybill_billing.providers.stripe.client import MissingError, PacedClient, retry_if_changed, stripe_errors
from paybill_billing.providers.stripe.coupons import StripeCoupons
from paybill_billing.providers.stripe.inbound import delivery_of
from paybill_billing.providers.stripe.invoice_pages import StripeInvoices
from paybill_billing.providers.stripe.invoice_totals import totals_of
from paybill_billing.providers.stripe.mappers import TENANT
from paybill_billing.providers.stripe.meters import StripeMeters
from paybill_billing.providers.stripe.pages import PAGE, all_of, page_of
from paybill_billing.providers.stripe.prices import StripePrices
from paybill_billing.providers.stripe.resolver import StripeReferenceResolver

if TYPE_CHECKING:  # these parameter types take 1 MB
    from stripe.params.checkout import (
        SessionCreateParams,
        SessionCreateParamsLineItem,
        SessionCreateParamsSubscriptionData,
    )

log = logging.getLogger(__name__)

NAME = "stripe"


class Stripe:
    """One Stripe account. The library's own retries are off: they use neither our rate limit nor our backoff."""

    def __init__(
        self, api_key: str, api_base: str, return_url: str, per_s: float, http: stripe.HTTPClient | None = None
    ) -> None:
        """http: replaces the connection to Stripe, and its rate limit of `per_s`."""
        # No telemetry: it would also write an id into the home directory.
        stripe.enable_telemetry = False
        self._http = http or PacedClient(per_s)
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base} if api_base else None,
            http_client=self._http,
            max_network_retries=0,
        )
        self._return_url = return_url
        self._meters = StripeMeters(self._client)
        self._prices = StripePrices(self._client, NAME, self._meters)
        self._charges = StripeCharges(self._client)
        self._invoices = StripeInvoices(self._client)
        self._coupons = StripeCoupons(self._client)
        self._changes = StripeChanges(self._client, self._prices, self._meters)
        self._resolver = StripeReferenceResolver(self._client)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the library leaves it untyped

    async def open(self, order: Order, key: str) -> OpenedAccount:
        """Creates the customer and a checkout for it, once for each `key`.

        Raises ProviderRefusedError, ProviderUnavailableError.
        """
        with stripe_errors():
            customer = await self._customer(order, key)
            purchase = Purchase(order.tenant_id, customer, order.product, order.plan, None, order.terms, order.metered)
            session = await self._checkout(purchase, key)
        if session.url is None:
            raise ProviderRefusedError(f"checkout {session.id} has no URL")
        return OpenedAccount(customer=customer, checkout=session.id, checkout_url=session.url)

    async def checkout(self, purchase: Purchase, key: str) -> OpenedCheckout:
        """Returns the last checkout while it is open, else a new one, once for each `key`."""
        with stripe_errors():
            session = await self._open_checkout(purchase.checkout) if purchase.checkout is not None else None
            if session is None:
                session = await self._checkout(purchase, key)
        if session.url is None:
            raise ProviderRefusedError(f"checkout {session.id} has no URL")
        return OpenedCheckout(session.id, session.url)

    async def _open_checkout(self, id_: str) -> stripe.checkout.Session | None:
        """Returns a checkout that is open; None for one that has expired, or was paid before its customer left."""
        try:
            session = await self._client.v1.checkout.sessions.retrieve_async(id_)
        except stripe.InvalidRequestError as error:
            if error.http_status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return session if session.status == "open" else None

    async def adopt(self, customer: str, tenant_id: str, key: str) -> tuple[str, ...]:
        """Writes the tenant into the customer's metadata, and returns its subscriptions that have not ended.

        Raises ProviderRefusedError for a missing customer, or one that belongs to another tenant.
        """
        v1 = self._client.v1
        with stripe_errors():
            found = (await v1.customers.retrieve_async(customer)).to_dict()
            if found.get("deleted"):
                raise ProviderRefusedError(f"the customer {customer} was deleted at Stripe")
            owner = (found.get("metadata") or {}).get(TENANT)
            if owner not in {None, "", tenant_id}:
                raise ProviderRefusedError(f"the customer {customer} already belongs to another tenant")
            if owner != tenant_id:
                await v1.customers.update_async(
                    customer, {"metadata": {TENANT: tenant_id}}, {"idempotency_key": f"{key}/adopt"}
                )
            held = await v1.subscriptions.list_async({"customer": customer, "limit": PAGE})
            return tuple([subscription.id async for subscription in held.auto_paging_iter()])

    async def fetch(self, subscription: str) -> ProviderSnapshot | None:
        """Returns the current subscription.

        Raises ProviderUnavailableError, ProviderRefusedError, MalformedObjectError.
        """
        try:
            with stripe_errors():
                # Raw JSON: building the library's objects costs more than the rest of a sync.
                found = await self._client.raw_request_async(
                    "get", f"/v1/subscriptions/{quoted(subscription, safe='')}", expand=["latest_invoice"]
                )
        except MissingError:
            return None
        return mappers.subscription_snapshot(await self._resolver.complete(found.data))

    async def subscriptions_of(self, customer: str) -> tuple[ProviderSnapshot, ...]:
        """Returns all subscriptions of the customer that have not ended."""
        found = all_of(self._client, "/v1/subscriptions", customer=customer, expand=["data.latest_invoice"])
        return tuple([mappers.subscription_snapshot(await self._resolver.complete(each)) async for each in found])

    async def is_deleted(self, customer: str) -> bool:
        """Returns whether the customer was deleted: Stripe still returns its id."""
        try:
            with stripe_errors():
                return bool((await self._client.v1.customers.retrieve_async(customer)).to_dict().get("deleted"))
        except MissingError:
            return True

    async def has_begun_trial(self, customer: str) -> bool:
        """Returns whether a subscription of the customer, which may have ended, had or has a trial."""
        async for found in all_of(self._client, "/v1/subscriptions", customer=customer, status="all"):
            if found.get("trial_start") is not None:
                return True
        return False

    async def cancel(self, subscription: str) -> None:
        """Cancels one subscription at once. Idempotent: Stripe answers 404 for one that has ended."""
        with suppress(MissingError), stripe_errors():
            await self._client.v1.subscriptions.cancel_async(subscription)

    async def debt_of(self, customer: str) -> tuple[Money, ...]:
        """Returns the unpaid amount of each invoice of the customer that could not be collected."""
        # Not by `status`: that would be a request for each of two.
        invoices = all_of(self._client, "/v1/invoices", customer=customer)
        return tuple([amount async for each in invoices if (amount := mappers.unpaid_amount(each)) is not None])

    async def charges_of(self, customer: str) -> tuple[PendingCharge, ...]:
        """Returns what can charge the customer without a subscription."""
        return await self._charges.of(customer)

    async def remove_charge(self, charge: PendingCharge) -> None:
        """Expires, cancels or deletes it. Idempotent."""
        await self._charges.remove(charge)

    async def invoice_totals(self, customer: str) -> InvoiceTotals:
        """Returns the money of all invoices of the customer."""
        invoices = await self._invoices.all(customer=customer)
        totals = totals_of(invoices)
        if not totals.credit and not totals.unpaid_credit:
            return totals
        return totals_of(invoices, await self._balance(customer, str(invoices[-1]["currency"])))

    async def _balance(self, customer: str, currency: str) -> Money | None:
        """Returns the customer's balance, negative for credit; None for a deleted customer."""
        with stripe_errors():
            path = f"/v1/customers/{quoted(customer, safe='')}"
            found = (await self._client.raw_request_async("get", path)).data
        if found.get("deleted"):
            return None
        return mappers.money_of(found.get("balance"), found.get("currency") or currency, found)

    async def resolve(self, kind: str, id_: str) -> ResolvedReference | None:
        """Resolves an object. Raises ProviderUnavailableError, ProviderRefusedError, MalformedObjectError."""
        return await self._resolver.resolve(kind, id_)

    async def failed_attempt(self, event_id: str, invoice: str) -> CollectionAttempt | None:
        """Returns the failed attempt of the event according to the current invoice."""
        return await self._resolver.failed_attempt(event_id, invoice)

    async def cancel_all(self, customer: str) -> None:
        """Ends checkouts and schedules, so that no subscription can start, then cancels all subscriptions. Idempotent.

        Usage that is on no invoice yet is on the last one.
        """
        v1 = self._client.v1
        with suppress(MissingError), stripe_errors():
            for charge in [each async for each in self._charges.opening(customer)]:
                await self._charges.remove(charge)
            subscriptions = await v1.subscriptions.list_async({"customer": customer, "limit": PAGE})
            async for subscription in subscriptions.auto_paging_iter():
                with retry_if_changed():
                    await v1.subscriptions.cancel_async(subscription.id, {"invoice_now": True})

    async def quote(self, subscription: str, desired: DesiredSubscription, at: datetime) -> Proration:
        """Returns the cost of the change at `at`. Changes nothing."""
        return await self._changes.quote(subscription, desired, at)

    async def change(self, subscription: str, desired: DesiredSubscription, at: datetime, key: str) -> None:
        """Applies the change, prorated as quoted for `at`. Idempotent by `key`."""
        await self._changes.change(subscription, desired, at, key)

    async def undelivered(self, since: datetime, after: str | None) -> UndeliveredPage:
        """Returns a page of undelivered events, the oldest page last; `after`: `next` of the page before.

        Stripe keeps events for 30 days. The API key authenticates the list, so its events carry no signature.
        """
        return await self._events(since, after, delivery_success="false")

    async def events(self, since: datetime, after: str | None) -> UndeliveredPage:
        """Returns a page of all events, as `undelivered` does."""
        return await self._events(since, after)

    async def _events(self, since: datetime, after: str | None, **which: str) -> UndeliveredPage:
        created = {"gte": int(since.timestamp())}
        found, next_ = await page_of(self._client, "/v1/events", after, created=created, **which)
        messages = []
        for event in found:
            try:
                delivery = delivery_of(event, datetime.now(UTC))
            except DeliveryRefusedError as error:
                log.warning("skipped an event of Stripe's list: %s", error)
            else:
                messages.append((delivery, json.dumps(event).encode()))
        return UndeliveredPage(tuple(messages), next_)

    async def subscriptions(self, after: str | None) -> SnapshotPage:
        """Returns a page of all subscriptions, ended ones too; `after`: `next` of the page before."""
        found, next_ = await page_of(
            self._client, "/v1/subscriptions", after, status="all", expand=["data.latest_invoice"]
        )
        snapshots = []
        for subscription in found:
            try:
                snapshots.append(mappers.subscription_snapshot(await self._resolver.complete(subscription)))
            except MalformedObjectError as error:
                # It may not be ours, and must not block the rest of the list.
                log.warning("skipped a subscription of Stripe's list: %s", error)
        return SnapshotPage(tuple(snapshots), next_)

    async def report(self, reading: MeterReading, key: str) -> None:
        """Adds to the customer's meter, once for each `key`."""
        await self._meters.report(reading, key)

    async def reported(self, meter: str, customer: str, since: datetime, until: datetime) -> int:
        """Returns the provider's total for that time."""
        return await self._meters.reported(meter, customer, since, until)

    async def invoiced(self, customer: str, since: datetime) -> tuple[InvoicedUsage, ...]:
        """Returns the usage on the customer's invoices."""
        return await self._meters.invoiced(customer, since)

    async def portal(self, customer: str, return_url: str) -> str:
        """Creates a link to the customer portal that expires soon."""
        with stripe_errors():
            session = await self._client.v1.billing_portal.sessions.create_async(
                {"customer": customer, "return_url": return_url}
            )
        return session.url

    async def _customer(self, order: Order, key: str) -> str:
        """Finds or creates the customer: Stripe keeps an idempotency key for a day, and a retry may come later."""
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

    async def _checkout(self, purchase: Purchase, key: str) -> stripe.checkout.Session:
        terms = purchase.terms
        sold = price_of(purchase.plan, terms)
        price = await self._prices.id_of(purchase.product, purchase.plan, sold)
        usage = [
            await self._prices.id_of_metered(purchase.product, purchase.plan, metered) for metered in purchase.metered
        ]
        line_items: list[SessionCreateParamsLineItem] = [{"price": price, "quantity": terms.quantity}]
        line_items += [{"price": each} for each in usage]
        subscription_data: SessionCreateParamsSubscriptionData = {"metadata": {TENANT: purchase.tenant_id}}
        if purchase.plan.trial_days:
            subscription_data["trial_period_days"] = purchase.plan.trial_days
        params: SessionCreateParams = {
            "mode": "subscription",
            "customer": purchase.customer,
            "client_reference_id": purchase.tenant_id,
            "line_items": line_items,
            "subscription_data": subscription_data,
            "success_url": self._return_url,
            "cancel_url": self._return_url,
        }
        if purchase.plan.trial_days and purchase.plan.trial_without_card:
            params["payment_method_collection"] = "if_required"
            subscription_data["trial_settings"] = {"end_behavior": {"missing_payment_method": "cancel"}}
        if terms.coupon is not None:
            params["discounts"] = [await self._coupons.discount(terms.coupon)]
        return await self._client.v1.checkout.sessions.create_async(params, {"idempotency_key": f"{key}/checkout"})
