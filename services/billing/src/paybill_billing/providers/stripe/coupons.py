"""Coupons at Stripe: a customer names a promotion code, and an operator also the id of a coupon."""

from typing import TYPE_CHECKING

import stripe

from paybill_billing.providers.port import ProviderRefusedError
from paybill_billing.providers.stripe.client import MissingError, stripe_errors

if TYPE_CHECKING:  # these parameter types take 1 MB
    from stripe.params.checkout import SessionCreateParamsDiscount


class StripeCoupons:
    """Coupons and promotion codes of one Stripe account."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    async def discount(self, name: str) -> "SessionCreateParamsDiscount":
        """Returns the discount of an active promotion code, else of the coupon with this id.

        Raises ProviderRefusedError when Stripe has neither, or the coupon is no longer valid.
        """
        codes = await self._client.v1.promotion_codes.list_async({"code": name, "active": True, "limit": 1})
        for found in codes.data:
            return {"promotion_code": found.id}
        try:
            with stripe_errors():
                coupon = await self._client.v1.coupons.retrieve_async(name)
        except MissingError:
            raise ProviderRefusedError(f"Stripe has neither an active promotion code nor a coupon {name}") from None
        if not coupon.valid:
            raise ProviderRefusedError(f"the coupon {name} is no longer valid at Stripe")
        return {"coupon": coupon.id}
