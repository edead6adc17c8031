"""Parameters of Stripe's requests for the items of a subscription and of the phases of its schedule."""

from typing import TYPE_CHECKING, Any

from paybill_billing.providers.stripe.mappers import Json, id_of

if TYPE_CHECKING:  # these parameter types take 1 MB
    from stripe.params import (
        InvoiceCreatePreviewParamsSubscriptionDetails,
        InvoiceCreatePreviewParamsSubscriptionDetailsItem,
        SubscriptionScheduleUpdateParamsPhase,
        SubscriptionScheduleUpdateParamsPhaseItem,
        SubscriptionUpdateParams,
    )


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
