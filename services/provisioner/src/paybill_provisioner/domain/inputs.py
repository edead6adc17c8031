"""Published data and measured durations that plans are made from, with the blueprints and cells."""

from dataclasses import dataclass

from paybill_provisioner.domain.estimates import PlanRuns
from paybill_provisioner.domain.price_book import PublishedPriceBook


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """Inputs of a plan. price_book: None when none is published; runs: None before the first plan was applied."""

    price_book: PublishedPriceBook | None = None
    runs: PlanRuns | None = None


NO_INPUTS = PlanInputs()
"""Inputs of an installation that has published nothing."""
