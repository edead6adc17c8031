"""Model of one subscription at Stripe: its state and its events after each action."""

from copy import deepcopy
from dataclasses import dataclass, field

DAY_S = 86_400
MONTH_S = 30 * DAY_S
PRICES = {"pro": ("pro_v1_month_eur", 2000), "basic": ("basic_v1_month_eur", 1000)}
HAPPENINGS = (
    "renew",
    "renewal_fails",
    "retry_fails",
    "pay",
    "give_up",
    "cancel",
    "cancel_later",
    "keep",
    "pause",
    "resume",
    "add_seat",
    "change_plan",
    "change_plan_fails",
    "days_pass",
)


@dataclass
class Event:
    """An event; `sent` is the number of actions before it."""

    id: str
    type: str
    created: int
    object: dict
    sent: int


@dataclass
class Stripe:
    """The subscription and its newest invoice. shown: its state after each action, with the time."""

    now: int
    trial_days: int = 0
    events: list[Event] = field(default_factory=list)
    shown: list[tuple[int, dict]] = field(default_factory=list)

    def __post_init__(self):
        trial_end = self.now + self.trial_days * DAY_S if self.trial_days else None
        self.subscription = {
            "id": "sub_P1",
            "object": "subscription",
            "customer": "cus_1",
            "currency": "eur",
            "status": "trialing" if trial_end else "active",
            "metadata": {},
            "cancel_at": None,
            "cancel_at_period_end": False,
            "pause_collection": None,
            "trial_end": trial_end,
            "latest_invoice": None,
            "items": {"object": "list", "data": [{"id": "si_1", "quantity": 1, "price": _price("pro")}]},
        }
        self._begin(self.now, trial_end or self.now + MONTH_S)
        self._bill("subscription_create", paid=True)
        self._emit("customer.subscription.created")

    def happen(self, what):
        """Applies an action if it is possible, an hour after the last one."""
        self.now += 3600
        if self.subscription["status"] not in {"canceled", "unpaid"}:
            getattr(self, f"_{what}")()
        self.shown.append((self.now, deepcopy(self.subscription)))

    @property
    def _failing(self):
        return self.subscription["status"] == "past_due"

    def _renew(self, *, paid=True):
        if self._failing:
            return
        item = self.subscription["items"]["data"][0]
        self.now = max(self.now, item["current_period_end"])
        if self.subscription["cancel_at_period_end"]:
            self._cancel()
            return
        self._begin(item["current_period_end"], item["current_period_end"] + MONTH_S)
        self._bill("subscription_cycle", paid=paid or bool(self.subscription["pause_collection"]))

    def _renewal_fails(self):
        self._renew(paid=False)

    def _retry_fails(self):
        if self._failing:
            self.subscription["latest_invoice"]["attempt_count"] += 1
            self._emit("invoice.payment_failed", self.subscription["latest_invoice"])

    def _pay(self):
        if self._failing:
            self.subscription["latest_invoice"]["status"] = "paid"
            self.subscription["status"] = "active"
            self._emit("invoice.paid", self.subscription["latest_invoice"])
            self._emit("customer.subscription.updated")

    def _give_up(self):
        if self._failing:
            self.subscription["status"] = "unpaid"
            self._emit("customer.subscription.updated")

    def _cancel(self):
        self.subscription["status"] = "canceled"
        self._emit("customer.subscription.deleted")

    def _cancel_later(self):
        self._update({"cancel_at_period_end": True})

    def _keep(self):
        self._update({"cancel_at_period_end": False})

    def _pause(self):
        self._update({"pause_collection": {"behavior": "void"}})

    def _resume(self):
        self._update({"pause_collection": None})

    def _add_seat(self):
        if not self._failing:
            self.subscription["items"]["data"][0]["quantity"] += 1
            self._emit("customer.subscription.updated")

    def _change_plan(self, *, paid=True):
        if self._failing or self.subscription["status"] == "trialing":
            return
        item = self.subscription["items"]["data"][0]
        item["price"] = _price("basic" if item["price"]["lookup_key"].startswith("pro") else "pro")
        self._bill("subscription_update", paid=paid)

    def _change_plan_fails(self):
        self._change_plan(paid=False)

    def _days_pass(self):
        self.now += 3 * DAY_S

    def _begin(self, start, end):
        item = self.subscription["items"]["data"][0]
        item["current_period_start"], item["current_period_end"] = start, end

    def _bill(self, reason, *, paid):
        number = len(self.events)
        self.subscription["latest_invoice"] = {
            "id": f"in_{number}",
            "object": "invoice",
            "status": "paid" if paid else "open",
            "billing_reason": reason,
            "collection_method": "charge_automatically",
            "created": self.now,
            "attempt_count": 1,
            "amount_due": 2000,
            "currency": "eur",
            "status_transitions": {"finalized_at": self.now},
        }
        if reason != "subscription_create":
            self.subscription["status"] = "active" if paid else "past_due"
            self._emit("invoice.paid" if paid else "invoice.payment_failed", self.subscription["latest_invoice"])
            self._emit("customer.subscription.updated")

    def _update(self, changes):
        self.subscription.update(changes)
        self._emit("customer.subscription.updated")

    def _emit(self, type_, about=None):
        shown = deepcopy(about if about is not None else self.subscription)
        self.events.append(Event(f"evt_{len(self.events)}", type_, self.now, shown, len(self.shown)))


def _price(plan):
    lookup_key, amount = PRICES[plan]
    return {
        "id": f"price_{plan}",
        "object": "price",
        "currency": "eur",
        "unit_amount": amount,
        "lookup_key": lookup_key,
        "metadata": {},
        "recurring": {"interval": "month", "interval_count": 1},
    }
