"""Conformance checks of billing providers, for the tests of a provider; docs/providers.md describes their use.

Each check is an async function that takes a `Rig` and raises NonConformingError, with or without pytest.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from paybill_contracts.catalogue import PlanVersion
from paybill_contracts.changes import ChangeKind, Proration

from paybill_billing.providers.port import (
    CustomerAdopter,
    CustomerPortal,
    DeliveryRefusedError,
    DesiredSubscription,
    Inbound,
    Order,
    Provider,
    ProviderRefusedError,
    SubscriptionLister,
)
from paybill_billing.providers.port.snapshots import OpenedAccount, ProviderSnapshot

PRODUCT = "shop"
"""The product of the orders that a rig makes."""

_HOUR = timedelta(hours=1)
_GIVES_ACCESS = frozenset({"active", "trialing"})


class NonConformingError(AssertionError):
    """Raised when the provider violates a requirement. The message names it."""


class Rig(Protocol):
    """Test rig: a provider, and the actions of its customers."""

    @property
    def provider(self) -> Provider:
        """The provider under test."""

    def order(self) -> Order:
        """Returns a new customer at every call, with a plan that has a price above zero and no trial."""

    async def buy(self, opened: OpenedAccount) -> str:
        """Completes the checkout and returns the id of the subscription, which gives access."""

    def now(self) -> datetime:
        """Returns the provider's time."""


class InboundRig(Protocol):
    """Test rig: the message verification of a provider, and signed messages."""

    @property
    def inbound(self) -> Inbound:
        """The verification under test."""

    def message(self) -> bytes:
        """Returns the body of a message about a subscription."""

    def sign(self, body: bytes, at: datetime) -> Mapping[str, str]:
        """Returns the headers of a request with this body, signed at this time; names in lower case."""


async def opens_once_for_each_key(rig: Rig) -> None:
    """Opens twice under one key, as after an attempt with an unknown outcome."""
    order = rig.order()
    first, again = [await rig.provider.open(order, f"open/{order.tenant_id}") for _ in range(2)]
    _expect(first == again, "opening twice under one key makes one customer and one checkout")
    _expect(first.checkout_url.startswith(("http://", "https://")), "the checkout has an http address")


async def returns_none_for_an_unknown_subscription(rig: Rig) -> None:
    """Fetches an unknown subscription, which may belong to another installation."""
    _expect(await rig.provider.fetch("never-bought") is None, "fetching an unknown subscription returns None")


async def fetches_a_new_subscription(rig: Rig) -> None:
    """Fetches a new subscription: billing has no other source."""
    order, opened, id_ = await _bought(rig)
    snapshot = await _fetched(rig, id_)
    item, price = snapshot.items[0], order.plan.prices[0]
    _expect(
        (snapshot.id, snapshot.customer) == (id_, opened.customer), "a subscription has its own id and its customer's"
    )
    _expect(snapshot.status in _GIVES_ACCESS, "a new subscription is active or trialing")
    _expect(
        (item.amount, item.quantity) == (price.amount, 1),
        "a new subscription has one unit of the plan at its first price",
    )
    _expect(snapshot == await _fetched(rig, id_), "two fetches without a change between them are equal")


async def quotes_without_changing(rig: Rig) -> None:
    """Quotes several changes, as before a choice."""
    order, _, id_ = await _bought(rig)
    before = await _fetched(rig, id_)
    for desired in (
        _seats(order.plan, 3),
        _desired(ChangeKind.CANCEL, order.plan),
        _at_period_end(ChangeKind.CANCEL, order.plan),
    ):
        quote = await rig.provider.quote(id_, desired, rig.now())
        _expect(_adds_up(quote), "the lines of a quote are in one currency, and what is due now is never negative")
    _expect(await _fetched(rig, id_) == before, "a quote changes nothing")


async def changes_once_for_each_key(rig: Rig) -> None:
    """Repeats a change under one key, as after an attempt with an unknown outcome."""
    order, _, id_ = await _bought(rig)
    at = rig.now()
    for _ in range(2):
        await rig.provider.change(id_, _seats(order.plan, 3), at, f"{id_}/more")
        _expect((await _fetched(rig, id_)).items[0].quantity == 3, "the next fetch shows a change")  # noqa: PLR2004  # as changed
    await rig.provider.change(id_, _seats(order.plan, 2), at, f"{id_}/less")
    _expect((await _fetched(rig, id_)).items[0].quantity == 2, "a fetch shows the newest change")  # noqa: PLR2004  # as changed


async def cancels_at_the_period_end_and_reactivates(rig: Rig) -> None:
    """Cancels at the period end, then reactivates."""
    order, _, id_ = await _bought(rig)
    for _ in range(2):
        await rig.provider.change(id_, _at_period_end(ChangeKind.CANCEL, order.plan), rig.now(), f"{id_}/end")
        snapshot = await _fetched(rig, id_)
        _expect(snapshot.status in _GIVES_ACCESS, "a subscription gives access until its scheduled end")
        _expect(snapshot.cancel_at is not None, "a fetch shows the scheduled end")
    await rig.provider.change(id_, _desired(ChangeKind.REACTIVATE, order.plan), rig.now(), f"{id_}/stay")
    _expect((await _fetched(rig, id_)).cancel_at is None, "a reactivated subscription has no scheduled end")


async def cancels_at_once(rig: Rig) -> None:
    """Cancels twice, which is no error."""
    order, _, id_ = await _bought(rig)
    for _ in range(2):
        await rig.provider.change(id_, _desired(ChangeKind.CANCEL, order.plan), rig.now(), f"{id_}/over")
        _expect((await _fetched(rig, id_)).status == "canceled", "a cancelled subscription has the status canceled")


async def pauses_and_resumes(rig: Rig) -> None:
    """Pauses and resumes. A pause is the status `paused`, or paused collection."""
    order, _, id_ = await _bought(rig)
    await rig.provider.change(id_, _desired(ChangeKind.PAUSE, order.plan), rig.now(), f"{id_}/pause")
    snapshot = await _fetched(rig, id_)
    _expect(snapshot.status == "paused" or snapshot.collection_paused, "a fetch shows a pause")
    await rig.provider.change(id_, _desired(ChangeKind.RESUME, order.plan), rig.now(), f"{id_}/resume")
    snapshot = await _fetched(rig, id_)
    _expect(snapshot.status in _GIVES_ACCESS and not snapshot.collection_paused, "a resumed subscription gives access")


async def refuses_to_change_an_unknown_subscription(rig: Rig) -> None:
    """Changes an unknown subscription, which is refused permanently."""
    desired = _seats(rig.order().plan, 3)
    await _refused(rig.provider.quote("never-bought", desired, rig.now()), "quoting an unknown subscription is refused")
    await _refused(
        rig.provider.change("never-bought", desired, rig.now(), "k"), "changing an unknown subscription is refused"
    )


async def cancels_all_of_a_customer_twice(rig: Rig) -> None:
    """Cancels all subscriptions of a customer, twice."""
    _, opened, id_ = await _bought(rig)
    for _ in range(2):
        await rig.provider.cancel_all(opened.customer)
    _expect((await _fetched(rig, id_)).status == "canceled", "cancel_all cancels the subscriptions of the customer")


async def cancels_a_customer_without_subscriptions(rig: Rig) -> None:
    """Cancels a customer that never bought, twice."""
    order = rig.order()
    opened = await rig.provider.open(order, f"open/{order.tenant_id}")
    await rig.provider.cancel_all(opened.customer)
    await rig.provider.cancel_all(opened.customer)


async def accepts_signed_messages(rig: InboundRig) -> None:
    """Receives two copies of a signed message."""
    body, now = rig.message(), datetime.fromisoformat("2026-03-01T12:00:00+00:00")
    first, again = [rig.inbound.receive(body, rig.sign(body, now), now + later) for later in (timedelta(), _HOUR / 60)]
    _expect(first.event_id == again.event_id != "", "all copies of a message have the same id")
    _expect(first.target is not None, "a message about a subscription has it as its target")


async def refuses_forged_messages(rig: InboundRig) -> None:
    """Receives forged and malformed messages: each raises DeliveryRefusedError and nothing else."""
    body, now = rig.message(), datetime.fromisoformat("2026-03-01T12:00:00+00:00")
    good = rig.sign(body, now)
    forged = {name: f"{value}0" for name, value in good.items()}
    for sent, headers, at, defect in (
        (body, {}, now, "without a signature"),
        (body, forged, now, "with a forged signature"),
        (body, dict.fromkeys(good, "é\x00"), now, "with a malformed signature"),
        (body + b" ", good, now, "with a body that was not signed"),
        (body, good, now + _HOUR, "an hour old"),
        (body, good, now - _HOUR, "an hour in the future"),
    ):
        _expect(_is_refused(rig.inbound, sent, headers, at), f"a message {defect} is refused")
    for garbage in (b"", b"\xff\xfe", b"{", b"[]", b"{}", b"null", b'"text"', b"[" * 100_000):
        _expect(_is_refused(rig.inbound, garbage, rig.sign(garbage, now), now), f"a signed {garbage[:8]!r} is refused")


async def links_to_the_portal(rig: Rig) -> None:
    """Opens the portal of a customer."""
    _, opened, _ = await _bought(rig)
    if not isinstance(rig.provider, CustomerPortal):
        raise NonConformingError("a provider with a portal has the method `portal`")
    link = await rig.provider.portal(opened.customer, "http://127.0.0.1/back")
    _expect(link.startswith(("http://", "https://")), "the portal has an http address")


async def lists_active_and_ended_subscriptions(rig: Rig) -> None:
    """Lists all subscriptions, in pages that end."""
    order, _, first = await _bought(rig)
    _, _, second = await _bought(rig)
    await rig.provider.change(second, _desired(ChangeKind.CANCEL, order.plan), rig.now(), f"{second}/over")
    if not isinstance(rig.provider, SubscriptionLister):
        raise NonConformingError("a provider that lists has the method `subscriptions`")
    found, after, pages = list[str](), None, 0
    while pages == 0 or after is not None:
        page = await rig.provider.subscriptions(after)
        found, after, pages = [*found, *(snapshot.id for snapshot in page.snapshots)], page.next, pages + 1
    _expect(
        [found.count(id_) for id_ in (first, second)] == [1, 1],
        "the list has every subscription once, including ended ones",
    )


async def adopts_a_customer_once(rig: Rig) -> None:
    """Adopts a customer with its subscriptions, twice; another tenant cannot adopt it."""
    order, opened, id_ = await _bought(rig)
    if not isinstance(rig.provider, CustomerAdopter):
        raise NonConformingError("a provider that adopts has the method `adopt`")
    for _ in range(2):
        adopted = await rig.provider.adopt(opened.customer, order.tenant_id, "adopt")
        _expect(adopted == (id_,), "adopting a customer returns its subscriptions")
    other = rig.order().tenant_id
    await _refused(
        rig.provider.adopt(opened.customer, other, "k"), "adopting the customer of another tenant is refused"
    )
    await _refused(rig.provider.adopt("never-there", other, "k"), "adopting an unknown customer is refused")


Check = Callable[[Rig], Awaitable[None]]

CHECKS: tuple[Check, ...] = (
    opens_once_for_each_key,
    returns_none_for_an_unknown_subscription,
    fetches_a_new_subscription,
    quotes_without_changing,
    changes_once_for_each_key,
    cancels_at_the_period_end_and_reactivates,
    cancels_at_once,
    pauses_and_resumes,
    refuses_to_change_an_unknown_subscription,
    cancels_all_of_a_customer_twice,
    cancels_a_customer_without_subscriptions,
)
"""Checks of every provider."""
INBOUND_CHECKS: tuple[Callable[[InboundRig], Awaitable[None]], ...] = (accepts_signed_messages, refuses_forged_messages)
"""Checks of providers that send messages."""
PORTAL_CHECKS: tuple[Check, ...] = (links_to_the_portal,)
"""Checks of providers with a portal."""
LIST_CHECKS: tuple[Check, ...] = (lists_active_and_ended_subscriptions,)
"""Checks of providers that list their subscriptions."""
ADOPT_CHECKS: tuple[Check, ...] = (adopts_a_customer_once,)
"""Checks of providers that adopt customers."""


async def _bought(rig: Rig) -> tuple[Order, OpenedAccount, str]:
    order = rig.order()
    opened = await rig.provider.open(order, f"open/{order.tenant_id}")
    return order, opened, await rig.buy(opened)


async def _fetched(rig: Rig, id_: str) -> ProviderSnapshot:
    snapshot = await rig.provider.fetch(id_)
    if snapshot is None:
        raise NonConformingError("fetching a known subscription never returns None")
    return snapshot


async def _refused(call: Awaitable[object], requirement: str) -> None:
    try:
        await call
    except ProviderRefusedError:
        return
    raise NonConformingError(requirement)


def _is_refused(inbound: Inbound, body: bytes, headers: Mapping[str, str], now: datetime) -> bool:
    try:
        inbound.receive(body, headers, now)
    except DeliveryRefusedError as error:
        return bool(error.code)
    return False


def _seats(plan: PlanVersion, quantity: int) -> DesiredSubscription:
    return DesiredSubscription(
        ChangeKind.PLAN,
        at_period_end=False,
        product=PRODUCT,
        plan=plan,
        price=plan.prices[0],
        quantity=quantity,
        pinned=plan,
    )


def _desired(kind: ChangeKind, plan: PlanVersion) -> DesiredSubscription:
    return DesiredSubscription(kind, at_period_end=False, product=PRODUCT, pinned=plan)


def _at_period_end(kind: ChangeKind, plan: PlanVersion) -> DesiredSubscription:
    return DesiredSubscription(kind, at_period_end=True, product=PRODUCT, pinned=plan)


def _adds_up(quote: Proration) -> bool:
    currencies = {line.amount.currency for line in quote.lines} | {quote.due_now.currency}
    return len(currencies) == 1 and quote.due_now.minor >= 0


def _expect(met: object, requirement: str) -> None:
    if not met:
        raise NonConformingError(requirement)
