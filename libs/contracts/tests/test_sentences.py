"""Every event can be told to an operator in one sentence."""

from datetime import UTC, datetime

import orjson
import pytest
from paybill_contracts.accounts import CheckoutExpired, DebtChanged, LeftoverFound
from paybill_contracts.agent_bundles import Amounts, Verb
from paybill_contracts.agent_gateway import AgentGatewayRequestRefused
from paybill_contracts.agent_runs import ActionDone, ActionFact, ActionRefused, BudgetReserved, RunEnded, RunFact
from paybill_contracts.agent_tenants import AgentTenantChanged
from paybill_contracts.agents import FREEZES, Thawed
from paybill_contracts.billing import EntitlementsSet, SubscriptionChanged, SubscriptionGraceStarted
from paybill_contracts.catalogue import BooleanFeature, LimitFeature, MeteredFeature, StaticFeature
from paybill_contracts.entitlements import EntitlementOverridden
from paybill_contracts.licences import LicenceKeyPublished
from paybill_contracts.money import Money
from paybill_contracts.schemas import published_events, sample_of
from paybill_contracts.sentences import sentence
from paybill_contracts.tenant import (
    DebtNoted,
    EntitlementNoted,
    Hold,
    HoldOrigin,
    IncidentsNoted,
    OffboardingStarted,
    OfferingNoted,
    OpenIncident,
    RemainderNoted,
    RetentionNoted,
    SuspensionMode,
    TenantSuspended,
)

TENANT = "ten_" + "0" * 32


def sample(event):
    return event.model_validate_json(orjson.dumps(sample_of(event)))


@pytest.mark.parametrize("event", published_events(), ids=lambda event: event.TYPE)
def test_every_event_is_one_readable_line(event):
    text = sentence(event.model_validate_json(orjson.dumps(sample_of(event))))

    assert 5 < len(text) < 400
    assert not any(part in text for part in ("{", "}", "\n", "`", "sealed", "object at"))


@pytest.mark.parametrize("event", published_events(), ids=lambda event: event.TYPE)
def test_the_name_of_a_field_does_not_stand_for_its_value(event):
    described = (event.__doc__ or "").partition("\n")[0].partition(". ")[0]

    text = sentence(event.model_validate_json(orjson.dumps(sample_of(event))))

    assert "`" not in described or text.lower() != described.rstrip(".").replace("`", "").lower()


def test_times_and_holds_are_readable():
    until = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
    holds = (
        Hold(origin=HoldOrigin.BILLING, mode=SuspensionMode.BLOCKED, reason="unpaid"),
        Hold(origin=HoldOrigin.OPERATOR, mode=SuspensionMode.READ_ONLY, reason="asked"),
    )

    leaves = OffboardingStarted(tenant_id=TENANT, origin=HoldOrigin.OPERATOR, reason="asked", retain_until=until)
    suspended = TenantSuspended(tenant_id=TENANT, mode=SuspensionMode.BLOCKED, holds=holds)

    assert sentence(leaves) == "offboarding (asked); data kept until 2026-03-01 12:00 UTC"
    assert sentence(suspended) == "suspended (blocked): billing: unpaid; operator: asked"


def test_amounts_durations_lists_and_access_are_readable():
    owed = (Money(minor=19900, currency="EUR"), Money(minor=9990, currency="KWD"))
    granted = sample(EntitlementsSet).model_copy(update={"allows_access": True})
    taken = granted.model_copy(update={"allows_access": False})
    offering = sample(OfferingNoted).model_copy(update={"offering": "regions", "keys": ("eu", "us")})

    assert sentence(DebtChanged(tenant_id=TENANT, provider="stripe", debt=owed)) == (
        "the customer owes 199.00 EUR, 9.990 KWD at stripe"
    )
    assert sentence(DebtNoted(tenant_id=TENANT, debt=())) == "the tenant's customer owes nothing"
    assert sentence(RetentionNoted(tenant_id=TENANT, retention_s=30 * 86_400)) == (
        "data is to be kept for 30 d after offboarding"
    )
    assert sentence(granted).startswith("entitled to ")
    assert sentence(taken).startswith("no longer entitled to ")
    assert sentence(offering) == "sign-ups may now name these regions: eu, us"


def test_a_subscription_that_was_set_to_end_names_the_end():
    changed = sample(SubscriptionChanged)
    at = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
    none = {"cancel_at": None, "pending": None}
    ends, stays = (
        changed.model_copy(update={"subscription": changed.subscription.model_copy(update=none | more)})
        for more in ({"cancel_at": at}, {})
    )

    assert sentence(ends) == f"{sentence(stays)}, ends at 2026-03-01 12:00 UTC"


def test_entitlements_name_plan_and_tier_and_a_signing_key_its_id():
    noted = sample(EntitlementNoted).model_copy(update={"allows_access": False})
    published = sample(LicenceKeyPublished)

    assert sentence(noted) == f"no longer entitled to plan {noted.plan}, tier {noted.tier} ({noted.placement})"
    assert sentence(published) == f"licences are signed with the key {published.kid} from now on"


def test_entitlements_name_what_overrides_and_grants_change():
    seats, more = (LimitFeature(kind="limit", key="seats", limit=limit) for limit in (10, 20))
    sso = BooleanFeature(kind="boolean", key="sso", enabled=True)
    calls = MeteredFeature(kind="metered", key="calls", meter="calls", included=100, quota=500)
    support = StaticFeature(kind="static", key="support", value="mail")
    as_plan = sample(EntitlementsSet).model_copy(
        update={"allows_access": True, "features": (seats, support), "plan_features": None}
    )
    beside = as_plan.model_copy(
        update={"features": (more, sso, calls, support), "plan_features": (seats, support), "set_revision": 2}
    )
    overridden = sample(EntitlementOverridden).model_copy(update={"feature": more, "valid_until": None, "reason": "x"})

    assert "with" not in sentence(as_plan)
    assert sentence(beside).endswith(
        "revision 2, with seats at most 20 (plan: at most 10), sso on (plan: none), "
        "calls 100 included and at most 500 (plan: none)"
    )
    assert "with" not in sentence(beside.model_copy(update={"allows_access": False}))
    assert sentence(overridden) == "seats at most 20 by an operator's override: x"
    until = overridden.model_copy(update={"valid_until": datetime(2026, 3, 1, tzinfo=UTC)})
    assert sentence(until) == "seats at most 20 by an operator's override, until 2026-03-01 00:00 UTC: x"


def test_a_missing_value_is_a_dash():
    known = sample(SubscriptionGraceStarted)
    unknown = known.model_copy(update={"subscription": known.subscription.model_copy(update={"grace_until": None})})

    assert sentence(unknown) == "payment outstanding; access stays until -"


def test_what_can_still_charge_is_named_until_nothing_is_left():
    found = sample(LeftoverFound).model_copy(update={"kind": "schedule", "subscription": "sub_sched_1"})
    left, nothing = (RemainderNoted(tenant_id=TENANT, remaining=remaining) for remaining in (("sub_1", "ii_2"), ()))

    assert "schedule sub_sched_1 at " in sentence(found)
    assert sentence(left) == "what can still charge the customer of the leaving tenant: sub_1, ii_2"
    assert sentence(nothing) == "what can still charge the customer of the leaving tenant: nothing"


def test_open_incidents_are_named():
    earlier = OpenIncident(incident_id=f"inc_{'0' * 32}", is_owned=False)
    named = earlier.model_copy(update={"kind": "second_subscription", "subject": f"tenant/{TENANT}"})
    both, none = (IncidentsNoted(tenant_id=TENANT, incidents=each) for each in ((named, earlier), ()))

    assert sentence(both) == (
        f"open incidents about the tenant: second_subscription of tenant/{TENANT}, {earlier.incident_id}"
    )
    assert sentence(none) == "open incidents about the tenant: none"


def test_an_expired_checkout_promises_no_other_one():
    expired = CheckoutExpired(tenant_id=TENANT, provider="stripe", checkout="cs_1")

    assert sentence(expired) == "checkout at stripe can no longer be used"


def test_budgets_of_agents_are_readable():
    amounts = Amounts(calls=12, rows=20, sums={"refunds.fee": 5, "refunds.amount": 10_000})
    text = "12 calls, 20 rows, refunds.amount 10000, refunds.fee 5"
    reserved = sample(BudgetReserved).model_copy(update={"reserved": amounts, "workflow": "refund"})
    ended = sample(RunEnded).model_copy(update={"used": amounts})

    assert sentence(reserved) == f"{reserved.run_id} of refund reserves {text} of the day's budget"
    assert sentence(ended).endswith(f"used {text}")


def test_an_action_names_its_verb_or_its_choice_and_never_the_content_of_a_row():
    done = sample(ActionDone).model_copy(
        update={"step": "propose", "seq": 3, "verb": Verb.CREATE, "resource": "refunds", "chosen": None}
    )
    created = done.model_copy(update={"rows": ({"id": "secret"}, {"id": "secret"})})
    chosen = done.model_copy(update={"verb": None, "resource": None, "chosen": "refuse", "rows": ()})

    assert sentence(created) == f"{done.run_id} seq 3: {done.workflow}.propose done, create of refunds, rows: 2"
    assert sentence(chosen) == f"{done.run_id} seq 3: {done.workflow}.propose done, chosen refuse, rows: 0"


@pytest.mark.parametrize(
    "event", [each for each in published_events() if issubclass(each, RunFact)], ids=lambda event: event.TYPE
)
def test_a_fact_of_a_run_names_its_run_its_workflow_and_its_step(event):
    fact = sample(event).model_copy(update={"workflow": "refund"})
    place = f"{fact.run_id} of refund "
    if isinstance(fact, ActionFact):
        fact = fact.model_copy(
            update={"step": "propose", "seq": 3} | ({"called": "propose"} if "called" in event.model_fields else {})
        )
        place = f"{fact.run_id} seq 3: refund.propose "

    assert sentence(fact).startswith(place)
    assert fact.tenant is not None


def test_a_refusal_names_who_tried_what_and_its_code():
    by = {"agent_id": "agt_" + "1" * 32, "workflow": "refund", "step": "order", "called": "propose"}
    of_run = sample(ActionRefused).model_copy(update=by | {"seq": 3, "code": "step_not_allowed", "rule": "it is order"})
    without_name = of_run.model_copy(update={"called": None, "agent_id": None})
    request = sample(AgentGatewayRequestRefused).model_copy(
        update={"verb": "act", "target": "refund", "caller": "agent:agt_1", "code": "no_bundle", "left_out": 0}
    )
    of_earlier_version = request.model_copy(update={"caller": None})

    assert sentence(of_run).endswith(f" seq 3: refund.propose by agt_{'1' * 32} refused, step_not_allowed: it is order")
    assert sentence(without_name).endswith(" seq 3: refund.- refused, step_not_allowed: it is order")
    assert sentence(request) == "act refund by agent:agt_1 refused: no_bundle"
    assert sentence(of_earlier_version) == "act refund refused: no_bundle"
    assert sentence(request.model_copy(update={"left_out": 7})).endswith(": no_bundle, and 7 more in the same minute")


def test_the_start_of_the_agent_gateway_is_no_thaw():
    now = datetime(2026, 3, 1, tzinfo=UTC)
    begun, ended = (
        sentence(Thawed(freezes_id=FREEZES, freeze="everything", thawed_by=by, thawed_at=now))
        for by in ("service:agent-gateway", "user:ada")
    )

    assert begun == "the agent gateway starts for the first time, and nothing is frozen"
    assert ended == "everything thawed by user:ada"


def test_the_feature_of_agents_is_named_once():
    feature = MeteredFeature(kind="metered", key="agent-actions", meter="agent-actions", included=1000)
    changed = sample(AgentTenantChanged).model_copy(
        update={"feature": feature, "status": "running", "allows_access": True}
    )

    assert sentence(changed) == "agents: acme is running, entitled, agent-actions 1000 included"
