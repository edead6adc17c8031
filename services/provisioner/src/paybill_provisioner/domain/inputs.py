"""Published data and measured durations that plans are made from, with the blueprints and cells."""

from dataclasses import dataclass

from paybill_contracts.event import digest
from paybill_contracts.policy import Policy

from paybill_provisioner.domain.estimates import PlanRuns
from paybill_provisioner.domain.policy import SAFE, PublishedPolicy
from paybill_provisioner.domain.price_book import PublishedPriceBook


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """Inputs of a plan. price_book, published_policy: None before the first; runs: None before the first plan ran."""

    price_book: PublishedPriceBook | None = None
    runs: PlanRuns | None = None
    published_policy: PublishedPolicy | None = None

    @property
    def policy(self) -> Policy:
        """The policy in force; a safe one before the first is published."""
        return self.published_policy.content if self.published_policy else SAFE

    @property
    def policy_hash(self) -> str:
        """Hash of the policy in force."""
        return self.published_policy.content_hash if self.published_policy else digest(SAFE)


NO_INPUTS = PlanInputs()
"""Inputs of an installation that has published nothing."""
