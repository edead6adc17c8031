"""Estimates of a plan of an environment: its cost, risks, difference of limits, and the time that it takes."""

from pydantic import Field

from paybill_contracts.event import Event, Value
from paybill_contracts.money import Money
from paybill_contracts.values import Count, Digest, EnvironmentId, Key, Text


class MonthlyCost(Value):
    """Cost of an environment for one month, before and after a plan; None when a price is missing.

    missing: what has no price, such as `database, local`.
    """

    before: Money | None = None
    after: Money | None = None
    missing: tuple[Text, ...] = ()


class Risk(Value):
    """A risk of a plan, by the rule with this id."""

    rule: Key
    text: Text


class LimitChange(Value):
    """A limit of the entitlements before and after a plan; None when the feature is missing."""

    feature: Key
    before: Count | None = None
    after: Count | None = None


class Estimates(Value):
    """Estimates of a plan. expected_ms: None while no plan with the same steps has run.

    proration: collected by the change of the subscription that the plan follows, as quoted; None without a quote.
    """

    cost: MonthlyCost = Field(default_factory=MonthlyCost)
    expected_ms: Count | None = None
    risks: tuple[Risk, ...] = ()
    limits: tuple[LimitChange, ...] = ()
    proration: Money | None = None


class PlanRunMeasured(Event, type="provisioner.plan_run_measured", version=1, aggregate="plan_runs", key="plan_runs"):
    """A plan was applied completely. signature: of its steps; plans with the same one take about the same time."""

    plan_runs: Key
    environment_id: EnvironmentId
    plan_hash: Digest
    signature: Digest
    took_ms: Count
