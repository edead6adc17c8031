"""What every billing provider has to keep, as checks that its own tests run: docs/providers.md says how.

Each check is an async function that takes a `Rig` and raises BrokenPromiseError, in pytest or without it.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from paybill_contracts.catalogue import PlanVersion
from paybill_contracts.changes import ChangeKind, Proration

from paybill_billing.providers.port import (
    Adopts,
    DeliveryRefusedError,
    DesiredSubscription,
    Inbound,
    Lists,
    Order,
    Portal,
    Provider,
    ProviderRefusedError,
)
from paybill_billing.providers.port.snapshots import OpenedAccount, ProviderSnapshot

PRODUCT = "shop"
"""The product of the orders that a rig makes."""

_HOUR = timedelta(hours=1)
_GIVES_ACCESS = frozenset({"active", "trialing"})


class BrokenPromiseError(AssertionError):
    """The provider does not do what billing relies on. The message says which promise it is."""


class Rig(Protocol):
    """A provider to be checked, and what its customers do."""

    @property
    def provider(self) -> Provider:
        """What is checked."""

    def order(self) -> Order:
        """A new customer at every call, that wants a plan with a price above zero and no trial."""

    async def buy(self, opened: OpenedAccount) -> str:
        """The customer takes what was offered to it; the id of its subscription, which gives access now."""

    def now(self) -> datetime:
        """The time at the provider."""


class InboundRig(Protocol):
    """A provider that sends messages, and what it takes to send one."""

    @property
    def inbound(self) -> Inbound:
        """What is checked."""

    def message(self) -> bytes:
        """The body of a message about a subscription."""

    def sign(self, body: bytes, at: datetime) -> Mapping[str, str]:
        """The headers of a request with this body, that was signed at this time; names in lower case."""


async def opens_once_for_each_key(rig: Rig) -> None:
    """An attempt whose outcome is unknown is made again."""
    order = rig.order()
    first, again = [await rig.provider.open(order, f"open/{order.tenant_id}") for _ in range(2)]
    _expect(first == again, "opening twice under one key makes one customer and one checkout")
    _expect(first.checkout_url.startswith(("http://", "https://")), "the checkout has an http address")


async def knows_nothing_of_what_was_never_bought(rig: Rig) -> None:
    """None is no error: it may be another installation's."""
    _expect(await rig.provider.fetch("never-bought") is None, "a subscription that never was is None")


async def shows_what_was_bought(rig: Rig) -> None:
    """What a look returns is all that billing knows."""
    order, opened, id_ = await _bought(rig)
    seen = await _seen(rig, id_)
    item, price = seen.items[0], order.plan.prices[0]
    _expect((seen.id, seen.customer) == (id_, opened.customer), "a subscription has its own id and its customer's")
    _expect(seen.status in _GIVES_ACCESS, "what was bought is active, or on trial")
    _expect((item.amount, item.quantity) == (price.amount, 1), "one of the plan, at its first price, was bought")
    _expect(seen == await _seen(rig, id_), "two looks at what did not change are equal")


async def quotes_without_changing(rig: Rig) -> None:
    """People look at several quotes before they choose one."""
    order, _, id_ = await _bought(rig)
    before = await _seen(rig, id_)
    for wanted in (
        _seats(order.plan, 3),
        _wanted(ChangeKind.CANCEL, order.plan),
        _later(ChangeKind.CANCEL, order.plan),
    ):
        quote = await rig.provider.quote(id_, wanted, rig.now())
        _expect(_adds_up(quote), "the lines of a quote are in one currency, and what is due now is never negative")
    _expect(await _seen(rig, id_) == before, "a quote changes nothing")


async def changes_once_for_each_key(rig: Rig) -> None:
    """An attempt whose outcome is unknown is made again, also when the change shows already."""
    order, _, id_ = await _bought(rig)
    at = rig.now()
    for _ in range(2):
        await rig.provider.change(id_, _seats(order.plan, 3), at, f"{id_}/more")
        _expect((await _seen(rig, id_)).items[0].quantity == 3, "a change shows at the next look")  # noqa: PLR2004  # as wanted
    await rig.provider.change(id_, _seats(order.plan, 2), at, f"{id_}/less")
    _expect((await _seen(rig, id_)).items[0].quantity == 2, "the newest change is the one that shows")  # noqa: PLR2004  # as wanted


async def cancels_when_the_period_ends_and_takes_that_back(rig: Rig) -> None:
    """Until then it gives access."""
    order, _, id_ = await _bought(rig)
    for _ in range(2):
        await rig.provider.change(id_, _later(ChangeKind.CANCEL, order.plan), rig.now(), f"{id_}/end")
        seen = await _seen(rig, id_)
        _expect(seen.status in _GIVES_ACCESS, "what ends later gives access until then")
        _expect(seen.cancel_at is not None, "when it ends is shown")
    await rig.provider.change(id_, _wanted(ChangeKind.REACTIVATE, order.plan), rig.now(), f"{id_}/stay")
    _expect((await _seen(rig, id_)).cancel_at is None, "what was taken back does not end")


async def cancels_at_once(rig: Rig) -> None:
    """Twice is no error."""
    order, _, id_ = await _bought(rig)
    for _ in range(2):
        await rig.provider.change(id_, _wanted(ChangeKind.CANCEL, order.plan), rig.now(), f"{id_}/over")
        _expect((await _seen(rig, id_)).status == "canceled", "what was cancelled shows that it is")


async def pauses_and_resumes(rig: Rig) -> None:
    """A pause shows as the status `paused`, or as collection that is paused."""
    order, _, id_ = await _bought(rig)
    await rig.provider.change(id_, _wanted(ChangeKind.PAUSE, order.plan), rig.now(), f"{id_}/pause")
    seen = await _seen(rig, id_)
    _expect(seen.status == "paused" or seen.collection_paused, "a pause shows")
    await rig.provider.change(id_, _wanted(ChangeKind.RESUME, order.plan), rig.now(), f"{id_}/resume")
    seen = await _seen(rig, id_)
    _expect(seen.status in _GIVES_ACCESS and not seen.collection_paused, "what was resumed gives access")


async def refuses_to_change_what_is_not_there(rig: Rig) -> None:
    """For good: no later attempt would find it."""
    wanted = _seats(rig.order().plan, 3)
    await _refused(rig.provider.quote("never-bought", wanted, rig.now()), "quoting what never was is refused")
    await _refused(rig.provider.change("never-bought", wanted, rig.now(), "k"), "changing what never was is refused")


async def lets_a_customer_go_twice(rig: Rig) -> None:
    """With all that it has."""
    _, opened, id_ = await _bought(rig)
    for _ in range(2):
        await rig.provider.cancel_all(opened.customer)
    _expect((await _seen(rig, id_)).status == "canceled", "a customer that left has no subscription that runs")


async def lets_go_who_never_bought(rig: Rig) -> None:
    """And somebody whom it does not know."""
    order = rig.order()
    opened = await rig.provider.open(order, f"open/{order.tenant_id}")
    await rig.provider.cancel_all(opened.customer)
    await rig.provider.cancel_all(opened.customer)


async def takes_what_is_signed(rig: InboundRig) -> None:
    """All copies of a message are one event."""
    body, now = rig.message(), datetime.fromisoformat("2026-03-01T12:00:00+00:00")
    first, again = [rig.inbound.receive(body, rig.sign(body, now), now + later) for later in (timedelta(), _HOUR / 60)]
    _expect(first.event_id == again.event_id != "", "a message has an id of its own, the same in every copy")
    _expect(first.target is not None, "a message about a subscription names it")


async def refuses_what_is_not_signed(rig: InboundRig) -> None:
    """Whatever it is, it is refused in words, and nothing else is raised."""
    body, now = rig.message(), datetime.fromisoformat("2026-03-01T12:00:00+00:00")
    good = rig.sign(body, now)
    forged = {name: f"{value}0" for name, value in good.items()}
    for sent, headers, at, promise in (
        (body, {}, now, "without a signature"),
        (body, forged, now, "with a signature that nobody made"),
        (body, dict.fromkeys(good, "é\x00"), now, "with a signature that is no text of theirs"),
        (body + b" ", good, now, "with another body than was signed"),
        (body, good, now + _HOUR, "an hour old"),
        (body, good, now - _HOUR, "an hour in the future"),
    ):
        _expect(_is_refused(rig.inbound, sent, headers, at), f"a message {promise} is refused")
    for garbage in (b"", b"\xff\xfe", b"{", b"[]", b"{}", b"null", b'"text"', b"[" * 100_000):
        _expect(_is_refused(rig.inbound, garbage, rig.sign(garbage, now), now), f"a signed {garbage[:8]!r} is refused")


async def links_to_its_portal(rig: Rig) -> None:
    """Only of a provider that has one."""
    _, opened, _ = await _bought(rig)
    if not isinstance(rig.provider, Portal):
        raise BrokenPromiseError("a provider with a portal has the method `portal`")
    link = await rig.provider.portal(opened.customer, "http://127.0.0.1/back")
    _expect(link.startswith(("http://", "https://")), "the portal has an http address")


async def lists_what_there_is_and_what_there_was(rig: Rig) -> None:
    """Every subscription once, in pages that end."""
    order, _, first = await _bought(rig)
    _, _, second = await _bought(rig)
    await rig.provider.change(second, _wanted(ChangeKind.CANCEL, order.plan), rig.now(), f"{second}/over")
    if not isinstance(rig.provider, Lists):
        raise BrokenPromiseError("a provider that lists has the method `subscriptions`")
    found, after, pages = list[str](), None, 0
    while pages == 0 or after is not None:
        page = await rig.provider.subscriptions(after)
        found, after, pages = [*found, *(seen.id for seen in page.snapshots)], page.next, pages + 1
    _expect([found.count(id_) for id_ in (first, second)] == [1, 1], "a list has each once, what ended too")


async def takes_over_a_customer_once(rig: Rig) -> None:
    """With what it has; an attempt whose outcome is unknown is made again, and nobody takes a tenant's customer."""
    order, opened, id_ = await _bought(rig)
    if not isinstance(rig.provider, Adopts):
        raise BrokenPromiseError("a provider whose customers can be taken over has the method `adopt`")
    for _ in range(2):
        held = await rig.provider.adopt(opened.customer, order.tenant_id, "adopt")
        _expect(held == (id_,), "a customer that is taken over brings its subscriptions")
    other = rig.order().tenant_id
    await _refused(rig.provider.adopt(opened.customer, other, "k"), "a customer that is a tenant is not another one")
    await _refused(rig.provider.adopt("never-there", other, "k"), "a customer that never was is not taken over")


Check = Callable[[Rig], Awaitable[None]]

CHECKS: tuple[Check, ...] = (
    opens_once_for_each_key,
    knows_nothing_of_what_was_never_bought,
    shows_what_was_bought,
    quotes_without_changing,
    changes_once_for_each_key,
    cancels_when_the_period_ends_and_takes_that_back,
    cancels_at_once,
    pauses_and_resumes,
    refuses_to_change_what_is_not_there,
    lets_a_customer_go_twice,
    lets_go_who_never_bought,
)
"""For every provider."""
INBOUND_CHECKS: tuple[Callable[[InboundRig], Awaitable[None]], ...] = (takes_what_is_signed, refuses_what_is_not_signed)
"""For those that send messages."""
PORTAL_CHECKS: tuple[Check, ...] = (links_to_its_portal,)
"""For those with pages of their own for customers."""
LIST_CHECKS: tuple[Check, ...] = (lists_what_there_is_and_what_there_was,)
"""For those that can be reconciled."""
ADOPT_CHECKS: tuple[Check, ...] = (takes_over_a_customer_once,)
"""For those whose customers can become tenants."""


async def _bought(rig: Rig) -> tuple[Order, OpenedAccount, str]:
    order = rig.order()
    opened = await rig.provider.open(order, f"open/{order.tenant_id}")
    return order, opened, await rig.buy(opened)


async def _seen(rig: Rig, id_: str) -> ProviderSnapshot:
    seen = await rig.provider.fetch(id_)
    if seen is None:
        raise BrokenPromiseError("what was bought can be looked at, and is never None again")
    return seen


async def _refused(call: Awaitable[object], promise: str) -> None:
    try:
        await call
    except ProviderRefusedError:
        return
    raise BrokenPromiseError(promise)


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


def _wanted(kind: ChangeKind, plan: PlanVersion) -> DesiredSubscription:
    return DesiredSubscription(kind, at_period_end=False, product=PRODUCT, pinned=plan)


def _later(kind: ChangeKind, plan: PlanVersion) -> DesiredSubscription:
    return DesiredSubscription(kind, at_period_end=True, product=PRODUCT, pinned=plan)


def _adds_up(quote: Proration) -> bool:
    currencies = {line.amount.currency for line in quote.lines} | {quote.due_now.currency}
    return len(currencies) == 1 and quote.due_now.minor >= 0


def _expect(kept: object, promise: str) -> None:
    if not kept:
        raise BrokenPromiseError(promise)
