"""Events about changes of subscriptions: requested, quoted, confirmed, applied or refused."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.catalogue import Feature, PlanRef
from paybill_contracts.event import Event, Value
from paybill_contracts.money import Money
from paybill_contracts.placement import Preset
from paybill_contracts.values import Count, Digest, Key, SubscriptionId, TenantId, Text, Timestamp

ChangeId = Annotated[
    str,
    StringConstraints(pattern=r"^chg_[0-9a-f]{32}$"),
    Field(examples=["chg_0123456789abcdef0123456789abcdef"]),
]


MigrationId = Annotated[
    str,
    StringConstraints(pattern=r"^mov_[0-9a-f]{32}$"),
    Field(examples=["mov_0123456789abcdef0123456789abcdef"]),
]


class ChangeKind(StrEnum):
    """Kind of a change.

    PLAN: another plan version, interval or number of seats. REACTIVATE undoes a cancellation or a change that is
    scheduled for the end of the period.
    """

    PLAN = "plan"
    CANCEL = "cancel"
    REACTIVATE = "reactivate"
    PAUSE = "pause"
    RESUME = "resume"


class ProrationLine(Value):
    """A line of the invoice for the change; negative for a credit."""

    text: Text
    amount: Money


class ScheduledPhase(Value):
    """Terms that the provider has scheduled for the subscription. text: for people, such as `2 x price_1abc`."""

    starts_at: Timestamp
    text: Text


class UnpaidTime(Value):
    """Unused time of a period that was not paid, so that it gives no credit. amount: the credit it would have been."""

    amount: Money
    reason: Text


class Proration(Value):
    """Cost of a change. due_now: collected when it is applied. next_amount: of the next regular invoice.

    effective_at: the time at which the subscription has the desired terms. dropped: the scheduled phases that the
    change removes. unpaid: what gives no credit; then the change is refused, or made without a proration. usage: the
    part of the lines that is for usage so far; more may be used until the change is applied.
    """

    lines: tuple[ProrationLine, ...]
    due_now: Money
    next_amount: Money | None
    effective_at: Timestamp
    dropped: tuple[ScheduledPhase, ...] = ()
    unpaid: UnpaidTime | None = None
    usage: Money | None = None


class FeatureDifference(Value):
    """A feature before and after; None where it is absent."""

    before: Feature | None
    after: Feature | None


class Overage(Value):
    """Price of usage beyond the included amount of a metered feature, for each `units` units."""

    feature: Key
    included: Count
    amount: Money
    units: Annotated[int, Field(ge=1, le=10**9)]


class PendingEnvironment(Value):
    """Change of size that the tenant's environment has not followed, as the provisioner reports it."""

    from_tier: Key
    from_placement: Preset
    to_tier: Key
    to_placement: Preset
    since: Timestamp
    reason: Text
    waits_for: Text


class WantedChange(Value):
    """The requested change in full: it does not depend on later catalogues.

    plan, quantity: None for no change. price_index: of the price in the plan. at_period_end: at the end of the paid
    period instead of now. without_proration: nothing is credited or charged for the current period, which is unpaid.
    drop_scheduled: the phases that were scheduled at the provider may be dropped. unpaid_without_proration: it is made
    without a proration if the quote finds that the period is not paid.
    """

    kind: ChangeKind
    at_period_end: bool
    plan: PlanRef | None
    price_index: Count
    quantity: Count | None
    without_proration: bool = False
    drop_scheduled: bool = False
    unpaid_without_proration: bool = False


class ChangeFact(Event):
    """Common fields of a change's events."""

    change_id: ChangeId
    tenant_id: TenantId
    subscription_id: SubscriptionId


class ChangeRequested(ChangeFact, type="billing.change_requested", version=1, aggregate="change", key="change_id"):
    """A change of a subscription is requested; a quote follows.

    confirmed: it is applied without confirmation as soon as it is quoted. move_id: the plan migration that it is part
    of. provider: of the subscription; None when an earlier version recorded the request.
    """

    wanted: WantedChange
    confirmed: bool
    reason: Text
    move_id: MigrationId | None = None
    provider: Key | None = None


class ChangeQuoted(ChangeFact, type="billing.change_quoted", version=1, aggregate="change", key="change_id"):
    """Cost and effect of the change; to be confirmed before `valid_until`. An approval names `quote_hash`.

    overdue: the unpaid amount that the customer owes already. overage: prices of usage after the change.
    environment: an earlier change that the environment has not followed yet.
    """

    proration: Proration
    features: tuple[FeatureDifference, ...]
    tier_before: Text
    tier_after: Text
    placement_before: Text
    placement_after: Text
    valid_until: Timestamp
    quote_hash: Digest
    overdue: Money | None = None
    overage: tuple[Overage, ...] = ()
    environment: PendingEnvironment | None = None


class ChangeConfirmed(ChangeFact, type="billing.change_confirmed", version=1, aggregate="change", key="change_id"):
    """The change is to be applied as quoted. provider: as of ChangeRequested."""

    quote_hash: Digest
    provider: Key | None = None


class ChangeApplied(ChangeFact, type="billing.change_applied", version=1, aggregate="change", key="change_id"):
    """The provider applied the change or scheduled it; the new state of the subscription is published separately."""


class ChangeRefused(ChangeFact, type="billing.change_refused", version=1, aggregate="change", key="change_id"):
    """The change will not be applied. code: of the violated rule, or `provider_refused`."""

    code: Key
    reason: Text


class ChangeExpired(ChangeFact, type="billing.change_expired", version=1, aggregate="change", key="change_id"):
    """The quote was not confirmed while it was valid."""


class ChangeDiscarded(ChangeFact, type="billing.change_discarded", version=1, aggregate="change", key="change_id"):
    """The requester discarded the change."""
