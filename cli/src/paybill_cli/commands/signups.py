"""Prices of sign-ups, and the next step after one in an unknown region."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any

from paybill_cli.client.http import Service
from paybill_cli.client.next_steps import line_with
from paybill_cli.client.stack import Stack
from paybill_cli.completion import region_names
from paybill_cli.errors import CliError
from paybill_cli.formatting import money, overage
from paybill_cli.output import Output


def price_of(account: Mapping[str, Any]) -> str | None:
    """Returns the price of the sign-up, such as `5 x 29.00 EUR per month, coupon SPRING20`."""
    terms, price = account["terms"], account["price"]
    if price is None or account["adopts"] is not None:
        return None
    return _priced(terms["quantity"], price["amount"], price["interval"], terms["coupon"])


def _priced(quantity: int, unit: Mapping[str, Any], interval: str, coupon: str | None) -> str:
    return f"{quantity} x {money(unit)} per {interval}" + (f", coupon {coupon}" if coupon else "")


def show_quote(out: Output, slug: str, quote: Mapping[str, Any]) -> None:
    """Prints the price that a sign-up would have."""
    if quote["unit_price"] is not None:
        price = _priced(quote["quantity"], quote["unit_price"], quote["interval"], quote["coupon"])
        trial = f", after {quote['trial_days']} days of trial" if quote["trial_days"] else ""
        trial = ", without a trial, which this customer has had" if quote["had_trial"] else trial
        out.info(f"{slug} would pay {price}: {money(quote['total'])}{trial}; nothing was changed")
    amounts: dict[str, Any] = {name: quote[name] and money(quote[name]) for name in ("unit_price", "total")}
    amounts["overage"] = [f"{each['feature']}: {overage(each)} beyond what is included" for each in quote["overage"]]
    out.record("tenant.quote", quote if out.json else {**quote, **amounts})


@contextmanager
def region_proposed(stack: Stack, region: str) -> Iterator[None]:
    """Adds a dry run in the most similar region to the refusal of an unknown one."""
    try:
        yield
    except CliError as error:
        if error.code == "unknown_region":
            # The refusal lists the regions, also when the provisioner does not answer.
            with suppress(CliError), Service(stack, "provisioner", attempts=1) as provisioner:
                for similar in get_close_matches(region, region_names(provisioner), 1, 0):
                    dry_run = line_with("--region", similar)
                    error.next = dry_run if "--dry-run" in dry_run.split() else f"{dry_run} --dry-run"
        raise
