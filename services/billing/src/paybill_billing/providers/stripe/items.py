"""Items of a subscription at Stripe, current and desired, and their parameters in requests."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, assert_never

from paybill_contracts.changes import ChangeKind

from paybill_billing.providers.port import DesiredSubscription, ProviderRefusedError
from paybill_billing.providers.stripe.mappers import CHANGE, Json, id_of, is_metered

if TYPE_CHECKING:  # these parameter types take 1 MB
    from stripe.params import (
        InvoiceCreatePreviewParamsSubscriptionDetails,
        InvoiceCreatePreviewParamsSubscriptionDetailsItem,
        SubscriptionScheduleUpdateParamsPhase,
        SubscriptionScheduleUpdateParamsPhaseItem,
        SubscriptionUpdateParams,
    )


@dataclass(frozen=True, slots=True)
class CurrentItems:
    """The current subscription at Stripe, with all its items and the plan's item."""

    data: Json
    items: list[Json]
    item: Json

    @property
    def id(self) -> str:
        return str(self.data["id"])

    @property
    def period(self) -> tuple[datetime, datetime]:
        """The current billing period. Raises ProviderRefusedError."""
        starts = self.item.get("current_period_start", self.data.get("current_period_start"))
        ends = self.item.get("current_period_end", self.data.get("current_period_end"))
        if not isinstance(starts, int) or not isinstance(ends, int):
            raise ProviderRefusedError(f"{self.id} has no current period")
        return datetime.fromtimestamp(starts, UTC), datetime.fromtimestamp(ends, UTC)

    @property
    def metered(self) -> set[str]:
        """The prices of usage."""
        return {each["price"]["id"] for each in self.items if is_metered(each["price"])}

    def field(self, name: str) -> Any:
        """Returns a field of the subscription."""
        return self.data.get(name)


@dataclass(frozen=True, slots=True)
class DesiredItems:
    """The plan's desired item, and the prices of usage that are added and the items of usage that are removed.

    Usage is never prorated: Stripe invoices what a removed item used until then.
    """

    plan: "InvoiceCreatePreviewParamsSubscriptionDetailsItem"
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    @property
    def all(self) -> list["InvoiceCreatePreviewParamsSubscriptionDetailsItem"]:
        """The items that are named in a request."""
        removed: list[InvoiceCreatePreviewParamsSubscriptionDetailsItem] = [
            {"id": id_, "deleted": True} for id_ in self.removed
        ]
        added: list[InvoiceCreatePreviewParamsSubscriptionDetailsItem] = [{"price": price} for price in self.added]
        return [self.plan, *removed, *added]

    def among(self, items: list[Json]) -> list["SubscriptionScheduleUpdateParamsPhaseItem"]:
        """Returns all items of the subscription after the change, with their terms."""
        kept = [each for each in items if each["id"] not in self.removed]
        after = [phase_item(self.plan if each["id"] == self.plan["id"] else item_params(each), each) for each in kept]
        after += [{"price": price} for price in self.added]
        return after

    def differs(self, found: CurrentItems) -> bool:
        """Returns True when the subscription does not have these items."""
        return bool(self.added or self.removed) or self.plan != item_params(found.item)


def without_invoice(found: CurrentItems, desired: DesiredSubscription) -> bool:
    """Returns whether a change now invoices nothing: during a trial, pending items wait for its end, too."""
    return desired.without_proration or found.field("status") == "trialing"


def is_made(found: CurrentItems, key: str) -> bool:
    """Returns whether the last change of plan or seats was the one of this key."""
    return (found.field("metadata") or {}).get(CHANGE) == key


def is_done(found: CurrentItems, after: DesiredItems, desired: DesiredSubscription, key: str) -> bool:
    """Returns whether an attempt has made the change, or the customer has."""
    has_schedule = id_of(found.field("schedule")) is not None
    match desired.kind:
        case ChangeKind.PLAN if desired.at_period_end:
            return not after.differs(found)
        case ChangeKind.PLAN:
            return is_made(found, key) or not (has_schedule or after.differs(found))
        case ChangeKind.CANCEL:
            return desired.at_period_end and bool(found.field("cancel_at_period_end")) and not has_schedule
        case ChangeKind.REACTIVATE:
            return not has_schedule and not without_cancellation(found.data)
        case ChangeKind.PAUSE:
            return bool(found.field("pause_collection"))
        case ChangeKind.RESUME:
            return not found.field("pause_collection") and found.field("status") != "paused"
        case _:
            assert_never(desired.kind)


def item_params(item: Json) -> "InvoiceCreatePreviewParamsSubscriptionDetailsItem":
    """Returns the parameters of the current item; a metered item has no quantity."""
    same: InvoiceCreatePreviewParamsSubscriptionDetailsItem = {"id": item["id"], "price": item["price"]["id"]}
    if isinstance(item.get("quantity"), int):
        same["quantity"] = item["quantity"]
    return same


def phase_item(
    item: "InvoiceCreatePreviewParamsSubscriptionDetailsItem", current: Json
) -> "SubscriptionScheduleUpdateParamsPhaseItem":
    """Returns the item of a phase with the discounts and tax rates of the current one: Stripe does not keep them."""
    same: SubscriptionScheduleUpdateParamsPhaseItem = {"price": item["price"]}
    if "quantity" in item:
        same["quantity"] = item["quantity"]
    if discounts := _ids(current.get("discounts")):
        same["discounts"] = [{"discount": id_} for id_ in discounts]
    if rates := _ids(current.get("tax_rates")):
        same["tax_rates"] = rates
    return same


def copy_terms(subscription: Json, phase: "SubscriptionScheduleUpdateParamsPhase") -> None:
    """Copies discounts and tax rates to a phase: Stripe does not keep them otherwise."""
    # Versions before 2024 show one discount.
    if discounts := _ids(subscription.get("discounts") or [subscription.get("discount")]):
        phase["discounts"] = [{"discount": id_} for id_ in discounts]
    if rates := _ids(subscription.get("default_tax_rates")):
        phase["default_tax_rates"] = rates


def first_period(subscription: Json, items: "list[SubscriptionScheduleUpdateParamsPhaseItem]") -> Json:
    """Returns the parameters of a preview of the first paid period, as of a new subscription with the same terms."""
    terms: SubscriptionScheduleUpdateParamsPhase = {"items": items}
    copy_terms(subscription, terms)
    discounts = {"discounts": terms.pop("discounts")} if "discounts" in terms else {}
    return {"customer": id_of(subscription.get("customer")), "subscription_details": terms, **discounts}


def without_cancellation(subscription: Json) -> "SubscriptionUpdateParams":
    """Returns the parameters that remove a cancellation; empty when there is none."""
    if subscription.get("cancel_at_period_end"):
        return {"cancel_at_period_end": False}
    return {"cancel_at": ""} if subscription.get("cancel_at") else {}


def reactivation_details(subscription: Json, item: Json) -> "InvoiceCreatePreviewParamsSubscriptionDetails":
    """Returns the subscription details without a scheduled change or cancellation. item: of the plan."""
    details: InvoiceCreatePreviewParamsSubscriptionDetails = {
        "items": [item_params(item)],
        "proration_behavior": "none",
    }
    undo = without_cancellation(subscription)
    if "cancel_at_period_end" in undo:
        details["cancel_at_period_end"] = False
    if "cancel_at" in undo:
        details["cancel_at"] = ""
    return details


def _ids(references: Any) -> list[str]:
    """Returns the ids of a list of references."""
    return [id_ for each in references or () if (id_ := id_of(each)) is not None]
