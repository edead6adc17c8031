"""Facts about changes of subscriptions: asked for, quoted, confirmed, made or refused."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from paybill_contracts.catalogue import Feature, PlanRef
from paybill_contracts.event import Event, Value
from paybill_contracts.money import Money
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
    """What is to be done with a subscription.

    PLAN: another plan version, interval or number of seats. REACTIVATE takes back a cancellation or a change that
    waits for the end of the period.
    """

    PLAN = "plan"
    CANCEL = "cancel"
    REACTIVATE = "reactivate"
    PAUSE = "pause"
    RESUME = "resume"


class ProrationLine(Value):
    """A line of the invoice that the change makes; negative for a credit."""

    text: Text
    amount: Money


class Proration(Value):
    """What a change costs. due_now: what is collected when it is made. next_amount: the next regular invoice.

    effective_at: when the subscription becomes what is wanted.
    """

    lines: tuple[ProrationLine, ...]
    due_now: Money
    next_amount: Money | None
    effective_at: Timestamp


class FeatureDifference(Value):
    """A feature before and after; None where it is not there."""

    before: Feature | None
    after: Feature | None


class WantedChange(Value):
    """What was asked for, in full: nothing of it depends on what is on sale later.

    plan, quantity: None when they stay as they are. price_index: which of the plan's prices. at_period_end: when what
    is paid for is over, and not now.
    """

    kind: ChangeKind
    at_period_end: bool
    plan: PlanRef | None
    price_index: Count
    quantity: Count | None


class ChangeFact(Event):
    """What all facts of a change carry."""

    change_id: ChangeId
    tenant_id: TenantId
    subscription_id: SubscriptionId


class ChangeRequested(ChangeFact, type="billing.change_requested", version=1, aggregate="change", key="change_id"):
    """Somebody wants a subscription changed, and first of all to know what that means.

    confirmed: it is made as soon as it is quoted, without asking again. move_id: the move of subscribers that it is
    part of.
    """

    wanted: WantedChange
    confirmed: bool
    reason: Text
    move_id: MigrationId | None = None


class ChangeQuoted(ChangeFact, type="billing.change_quoted", version=1, aggregate="change", key="change_id"):
    """What the change costs and gives; confirm it before `valid_until`. Whoever approves it names `quote_hash`."""

    proration: Proration
    features: tuple[FeatureDifference, ...]
    tier_before: Text
    tier_after: Text
    placement_before: Text
    placement_after: Text
    valid_until: Timestamp
    quote_hash: Digest


class ChangeConfirmed(ChangeFact, type="billing.change_confirmed", version=1, aggregate="change", key="change_id"):
    """The change is to be made as it was quoted."""

    quote_hash: Digest


class ChangeApplied(ChangeFact, type="billing.change_applied", version=1, aggregate="change", key="change_id"):
    """The provider has made the change, or will when the period ends; what it looks like follows as a fact."""


class ChangeRefused(ChangeFact, type="billing.change_refused", version=1, aggregate="change", key="change_id"):
    """The change will not be made. code: of the rule that said no, or `provider_refused`."""

    code: Key
    reason: Text


class ChangeExpired(ChangeFact, type="billing.change_expired", version=1, aggregate="change", key="change_id"):
    """Nobody confirmed the quote while it was valid."""


class ChangeDiscarded(ChangeFact, type="billing.change_discarded", version=1, aggregate="change", key="change_id"):
    """Whoever asked does not want it any more."""
