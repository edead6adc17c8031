"""`why` finds the root cause of many kinds of faults, and names a command that exists and takes its arguments."""

import shlex
from datetime import timedelta
from random import Random

import pytest
from paybill_cli.command import load
from paybill_cli.tree import TREE, Branch, Leaf
from paybill_contracts.sentences import sentence
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted, ReturnRuledOut
from paybill_contracts.why import Explanation, HoldState, RecentFact
from paybill_contracts.why_causes import explain
from why_faults import FAULTS, NOW, Situation, held, nobody_paid, poisoned_fact, unknown_customer

ID = "ten_" + "0" * 32
VARIATIONS = 10
REQUIRED_CAUSES = 0.95
REQUIRED_COMMANDS = 0.90


def explained(situation: Situation) -> Explanation:
    parts = situation.all_parts()
    name = situation.tenant.slug if any(part.tenant for part in parts) else "acme"
    return explain(name, parts, situation.unanswered, situation.machine())


def is_a_command(text: str) -> bool:
    """Returns whether `text` is a complete command of `paybill`: its options and arguments are parsed."""
    program, *arguments = shlex.split(text)
    node: Branch | Leaf = TREE
    name = program
    while isinstance(node, Branch):
        name, *arguments = arguments
        node = node.commands[name]
    load(node, name).make_context(name, arguments)
    return program == "paybill"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_root_cause_comes_first_with_a_command_that_exists(fault) -> None:
    kind, command = FAULTS[fault]
    found, helped = 0, 0
    for variation in range(VARIATIONS):
        situation = Situation(Random(f"{fault.__name__}/{variation}"))
        fault(situation)
        explanation = explained(situation)
        found += explanation.causes[0].kind == kind
        helped += command in explanation.command and is_a_command(explanation.command)
        assert explanation.causes[0].summary in explanation.headline

    assert found >= REQUIRED_CAUSES * VARIATIONS
    assert helped >= REQUIRED_COMMANDS * VARIATIONS


def test_two_faults_are_both_found_and_the_one_that_stops_everything_is_first() -> None:
    situation = Situation(Random(1))
    poisoned_fact(situation)
    held(situation)

    kinds = [cause.kind for cause in explained(situation).causes]

    assert kinds == ["message", "hold"]


def test_an_active_tenant_has_no_cause_and_a_command_that_shows_it() -> None:
    situation = Situation(Random(2))
    situation.paid()
    situation.tenant = situation.tenant.model_copy(update={"status": "active"})
    ready = {"status": "ready", "access": "open"}
    situation.environment = situation.environment.model_copy(update=ready)

    explanation = explained(situation)

    assert explanation.causes == ()
    assert explanation.headline.endswith("is active: nothing is wrong, and nothing is pending")
    assert is_a_command(explanation.command)


def test_a_build_that_failed_before_a_retry_is_no_cause_any_more() -> None:
    situation = Situation(Random(5))
    situation.paid()
    situation.failed_job("provisioner", "build", "InsufficientPrivilegeError: permission denied to create role")
    jobs = tuple(job.model_copy(update={"state": "failed"}) for job in situation.parts["provisioner"].jobs)
    situation.change("provisioner", jobs=jobs)
    built = {"status": "ready", "access": "open"}
    before = [cause.kind for cause in explained(situation).causes]
    situation.environment = situation.environment.model_copy(update=built)

    assert before == ["build"]
    assert explained(situation).causes == ()


ENDED = HoldState(origin="billing", mode="blocked", reason="the subscription ended")


@pytest.mark.parametrize(("holds", "kind"), [((), "not_paid"), ((ENDED,), "subscription_ended")])
def test_a_debt_of_an_earlier_subscription_is_first_only_when_nothing_is_sold_before_it_is_paid(holds, kind) -> None:
    situation = Situation(Random(4))
    situation.tenant = situation.tenant.model_copy(update={"holds": holds})
    situation.account = situation.account.model_copy(update={"debt": "25.00 EUR"})
    first = explained(situation)
    situation.account = situation.account.model_copy(update={"sells_with_debt": False})
    refused = explained(situation)

    assert [cause.kind for cause in first.causes] == [kind, "debt"]
    assert first.command == f"paybill tenant checkout {situation.tenant.slug}"
    assert [cause.kind for cause in refused.causes] == ["debt", kind]
    assert "the customer owes 25.00 EUR" in refused.headline


def test_an_ended_subscription_is_the_cause_and_not_the_checkout_that_was_paid() -> None:
    situation = Situation(Random(6))
    ended = {"status": "suspended", "holds": (ENDED,), "waits_until": NOW + timedelta(minutes=15)}
    situation.tenant = situation.tenant.model_copy(update=ended)

    [cause] = explained(situation).causes

    assert cause.kind == "subscription_ended"
    assert f"offboarding begins at {NOW + timedelta(minutes=15):%Y-%m-%d %H:%M:%S} UTC" in cause.summary
    assert "https://" not in cause.summary
    assert cause.command == f"paybill tenant checkout {situation.tenant.slug}"


@pytest.mark.parametrize(("missing", "first"), [((), "subscription_ended"), (("sub_1",), "signature")])
def test_refused_webhooks_explain_no_end_that_the_provider_shows(missing, first) -> None:
    situation = Situation(Random(6))
    situation.tenant = situation.tenant.model_copy(update={"status": "suspended", "holds": (ENDED,)})
    refused = (situation.refused("unsigned"), situation.refused("bad_signature"))
    found = {"refused_webhooks": refused, "missing": missing}
    situation.account = situation.account.model_copy(update=found)

    assert explained(situation).causes[0].kind == first


def test_a_refused_coupon_ends_its_sign_up_and_names_the_way_to_keep_it() -> None:
    situation = Situation(Random(7))
    failed = {"status": "failed", "failure": "Stripe has no coupon X", "is_coupon_refused": True, "customer": None}
    situation.account = situation.account.model_copy(update=failed)
    situation.failed_job("billing", "open_account", "Stripe has no coupon X")

    [cause] = explained(situation).causes

    assert cause.command == f"paybill tenant offboard {situation.tenant.slug} --reason refused"
    assert "create the coupon at stripe and run: paybill jobs retry" in cause.because[0]


def test_a_refused_customer_ends_its_sign_up_because_a_retry_would_be_refused_again() -> None:
    situation = Situation(Random(7))
    taken = "the customer cus_1 already belongs to another tenant"
    failed = {"status": "failed", "failure": taken, "is_customer_refused": True, "customer": None}
    situation.account = situation.account.model_copy(update=failed)
    situation.failed_job("billing", "open_account", taken)

    [cause] = explained(situation).causes

    assert cause.summary == f"stripe refused the account: {taken}"
    assert cause.command == f"paybill tenant offboard {situation.tenant.slug} --reason refused"
    assert "sign up again with another one" in cause.because[0]


def test_a_subscription_of_a_stranger_explains_no_end_of_an_own_one() -> None:
    situation = Situation(Random(6))
    unknown_customer(situation)
    situation.tenant = situation.tenant.model_copy(update={"status": "suspended", "holds": (ENDED,)})

    assert [cause.kind for cause in explained(situation).causes] == ["subscription_ended"]


@pytest.mark.parametrize(("minutes", "first"), [(-1, "not_paid"), (1, "unknown_customer")])
def test_a_subscription_of_a_stranger_from_before_the_sign_up_is_not_the_first_cause(minutes: int, first: str) -> None:
    situation = Situation(Random(6))
    unknown_customer(situation)
    situation.tenant = situation.tenant.model_copy(update={"requested_at": NOW})
    [stranger] = situation.account.strangers
    arrived = stranger.model_copy(update={"since": NOW + timedelta(minutes=minutes)})
    situation.account = situation.account.model_copy(update={"strangers": (arrived,)})

    kinds = [cause.kind for cause in explained(situation).causes]

    assert kinds[0] == first
    assert sorted(kinds) == ["not_paid", "unknown_customer"]


@pytest.mark.parametrize(
    ("status", "holds", "kind", "verb"),
    [("requested", (), "customer_deleted", "offboard"), ("suspended", (ENDED,), "subscription_ended", "show")],
)
def test_a_customer_that_was_deleted_at_the_provider_gets_no_checkout(status, holds, kind, verb) -> None:
    situation = Situation(Random(6))
    situation.tenant = situation.tenant.model_copy(update={"status": status, "holds": holds})
    situation.account = situation.account.model_copy(update={"is_customer_deleted": True})

    [cause] = explained(situation).causes

    assert cause.kind == kind
    assert f"{situation.account.customer} was deleted at stripe" in f"{cause.summary} {cause.because}"
    assert cause.command.startswith(f"paybill tenant {verb} {situation.tenant.slug}")


@pytest.mark.parametrize(("access", "before"), [("paused", []), ("grace", ["card_declined"]), ("suspended", ["debt"])])
def test_a_pause_is_named_with_its_resumption_whatever_access_is_left(access: str, before: list[str]) -> None:
    situation = Situation(Random(6))
    status = "active" if access == "paused" else "past_due"
    situation.paid(situation.subscription(access, status, pause="void"))

    causes = explained(situation).causes

    assert [cause.kind for cause in causes] == [*before, "paused"]
    assert causes[-1].command == f'paybill subscription resume sub_{"a" * 32} --reason "the pause is over"'


def test_a_pause_that_takes_no_access_is_no_cause_and_is_mentioned() -> None:
    situation = Situation(Random(6))
    situation.paid(situation.subscription("active", "active", pause="keep_as_draft"))
    situation.tenant = situation.tenant.model_copy(update={"status": "active"})
    situation.environment = situation.environment.model_copy(update={"status": "ready", "access": "open"})

    explanation = explained(situation)

    assert explanation.causes == ()
    assert explanation.headline.endswith("is paused (keep_as_draft), which takes no access")


@pytest.mark.parametrize("reason", ["unsigned", "bad_signature", "too_large"])
def test_refused_webhooks_that_nobody_but_a_stranger_may_have_sent_are_no_cause(reason: str) -> None:
    situation = Situation(Random(8))
    refused = situation.refused(reason)
    situation.account = situation.account.model_copy(update={"refused_webhooks": (refused,)})
    of_strangers = [cause.kind for cause in explained(situation).causes]
    undelivered = refused.model_copy(update={"undelivered_at": NOW})
    situation.account = situation.account.model_copy(update={"refused_webhooks": (undelivered,)})

    assert of_strangers == ["not_paid"]
    assert explained(situation).causes[0].kind == "signature"


def test_a_refused_account_is_no_cause_once_the_tenant_is_cancelled() -> None:
    situation = Situation(Random(7))
    situation.account = situation.account.model_copy(update={"status": "failed", "failure": "no such coupon"})
    before = [cause.kind for cause in explained(situation).causes]
    situation.tenant = situation.tenant.model_copy(update={"status": "cancelled"})

    assert before == ["provider"]
    assert explained(situation).causes == ()


def test_the_facts_of_all_services_are_one_chain_in_the_order_of_time() -> None:
    situation = Situation(Random(3))
    nobody_paid(situation)

    chain = explained(situation).chain

    assert {link.service for link in chain} == {"tenant", "billing", "provisioner", "agent-gateway"}
    assert [link.at for link in chain] == sorted(link.at for link in chain)


@pytest.mark.parametrize("plan", ["starter", None])
def test_a_pending_change_names_the_way_back_and_a_next_command_that_does_not_undo_it(plan: str | None) -> None:
    situation = Situation(Random(1))
    situation.paid()
    situation.tenant = situation.tenant.model_copy(update={"status": "active"})
    situation.account = situation.account.model_copy(update={"plan_of_built_size": plan})
    situation.environment = situation.environment.model_copy(
        update={"status": "ready", "access": "open", "pending": "starter is built and team is entitled"}
    )

    explanation = explained(situation)

    assert [cause.kind for cause in explanation.causes] == ["pending_change"]
    assert "not built yet" in explanation.causes[0].because[0]
    assert explanation.command == f"paybill tenant show {situation.tenant.slug}"
    back = explanation.causes[0].because[1].partition(": ")[2]
    assert is_a_command(back)
    expected = f"paybill subscription change {situation.tenant.slug} --plan starter" if plan else "paybill plans list"
    assert back.startswith(expected)


@pytest.mark.parametrize("by_operator", [False, True])
def test_a_retained_tenant_shows_since_when_why_until_when_and_how_it_returns(by_operator: bool) -> None:
    situation = Situation(Random(1))
    situation.tenant = situation.tenant.model_copy(update={"status": "retained", "retain_until": NOW})
    situation.account = situation.account.model_copy(update={"leaving": by_operator})
    left, kept = (
        RecentFact(id="1", type=f"tenant.{name}", at=NOW, sentence=sentence)
        for name, sentence in (("offboarding_started", "offboarding (asked); data kept"), ("tenant_retained", "kept"))
    )
    situation.change("tenant", facts=(left, kept))

    explanation = explained(situation)

    time = f"{NOW:%Y-%m-%d %H:%M:%S} UTC"
    assert explanation.causes == ()
    assert f"is retained since {time}: offboarding (asked); data kept; " in explanation.headline
    assert ("new tenant" in explanation.headline) is by_operator
    verb = "show" if by_operator else "checkout"
    assert explanation.command == f"paybill tenant {verb} {situation.tenant.slug}"
    assert [link.sentence for link in explanation.chain if link.service == "tenant"] == [left.sentence, kept.sentence]


def test_a_tenant_that_billing_offboarded_never_names_an_operator_when_its_return_is_ruled_out() -> None:
    situation = Situation(Random(1))
    situation.tenant = situation.tenant.model_copy(update={"status": "retained", "retain_until": NOW})
    situation.account = situation.account.model_copy(update={"leaving": True})
    events = (
        OffboardingStarted(tenant_id=ID, origin=HoldOrigin.BILLING, reason="the subscription ended", retain_until=NOW),
        ReturnRuledOut(tenant_id=ID, reason="the retention period is over"),
    )
    facts = tuple(RecentFact(id=each.TYPE, type=each.TYPE, at=NOW, sentence=sentence(each)) for each in events)
    situation.change("tenant", facts=facts)

    explanation = explained(situation)

    assert explanation.headline.endswith(
        "as a new tenant, because its customer can no longer return: the retention period is over"
    )
    assert "operator" not in explanation.headline
    assert explanation.command == f"paybill tenant show {situation.tenant.slug}"


@pytest.mark.parametrize(
    ("account", "returns", "verb"),
    [
        ({}, "the customer returns by subscribing again", "checkout"),
        ({"debt": "29.00 EUR"}, "the customer owes 29.00 EUR; the customer returns by subscribing", "checkout"),
        ({"debt": "29.00 EUR", "sells_with_debt": False}, "by paying its debt and then subscribing again", "portal"),
        ({"is_customer_deleted": True}, "as a new tenant, because cus_1 was deleted at stripe", "show"),
    ],
)
def test_a_hold_or_a_debt_of_a_retained_tenant_is_no_cause_and_stays_in_its_headline(account, returns, verb) -> None:
    situation = Situation(Random(1))
    hold = HoldState(origin="operator", mode="read_only", reason="audit")
    retained = {"status": "retained", "retain_until": NOW, "holds": (hold, ENDED)}
    situation.tenant = situation.tenant.model_copy(update=retained)
    situation.account = situation.account.model_copy(update={"customer": "cus_1", **account})

    explanation = explained(situation)

    assert explanation.causes == ()
    assert f"data kept until {NOW:%Y-%m-%d %H:%M:%S} UTC" in explanation.headline
    assert returns in explanation.headline
    assert ("an operator's hold stays in force: audit" in explanation.headline) is (verb != "show")
    assert explanation.command == f"paybill tenant {verb} {situation.tenant.slug}"


def test_the_steps_of_a_build_are_one_link_of_the_chain() -> None:
    situation = Situation(Random(3))
    types = ["provisioner.environment_planned", *["provisioner.resource_ready"] * 10, "provisioner.environment_ready"]
    facts = [
        RecentFact(id=str(number), type=type_, at=NOW + timedelta(seconds=number), sentence=f"fact {number}")
        for number, type_ in enumerate(types)
    ]
    situation.change("provisioner", facts=tuple(facts))

    sentences = [link.sentence for link in explained(situation).chain if link.service == "provisioner"]

    assert sentences == ["fact 0", "fact 10 (and 9 more before)", "fact 11"]
