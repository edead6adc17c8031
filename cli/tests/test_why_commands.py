"""Every command that `why` can print is complete, and is allowed in the state in which it is printed."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from random import Random

from paybill_cli.command import load
from paybill_cli.tree import TREE, Branch, Leaf
from paybill_contracts import why_causes, why_customer
from paybill_contracts.why import (
    ENTITLING,
    LEFT,
    Explanation,
    HoldState,
    OpenIncident,
    OpenViolation,
    Unanswered,
    UnsettledState,
)
from paybill_contracts.why_causes import explain
from paybill_tenant.domain.tenants import LEFT as LEFT_STATUS
from paybill_tenant.domain.tenants import Status
from test_next_steps import parsed
from typer import TyperException
from why_faults import FAULTS, NOW, Situation

SITUATIONS = 3_000
HOLDS = (
    HoldState(origin="operator", mode="read_only", reason="audit"),
    HoldState(origin="billing", mode="blocked", reason="the subscription ended"),
    HoldState(origin="legal", mode="data", reason="2026-17"),
    HoldState(origin="quarantine", mode="blocked", reason="leaked password"),
)
SUBSCRIPTIONS = (
    ("pending", "incomplete", None),
    ("active", "active", None),
    ("active", "active", "keep_as_draft"),
    ("trialing", "trialing", None),
    ("grace", "past_due", None),
    ("grace", "past_due", "void"),
    ("suspended", "unpaid", None),
    ("suspended", "past_due", "void"),
    ("paused", "active", "void"),
    ("paused", "paused", None),
)


UNSETTLED = {
    "approval_requested": f"paybill approval show apr_{'1' * 32}",
    "approval_granted": "paybill environment apply {slug}",
    "approval_rejected": "paybill environment plan {slug}",
    "paused": "paybill tenant show {slug}",
    "slow": "paybill environment show {slug}",
}
"""Commands of the provisioner's reasons, as `paybill_provisioner.domain.unsettled` has them."""


def is_sold(at: Situation) -> bool:
    account = at.account
    is_free = account.status == "open" and not account.leaving and not account.is_customer_deleted
    sells = account.provider == "manual" or account.sells_with_debt or not account.debt
    return is_free and not account.subscriptions and sells


def may_resume(at: Situation) -> bool:
    """As `check_allowed` of billing."""
    return any(
        each.access not in {"pending", "ended"} and (each.access == "paused" or each.pause)
        for each in at.account.subscriptions
    )


def _is_held(at: Situation) -> bool:
    return any(hold.origin == "operator" for hold in at.tenant.holds)


def _reason(at: Situation) -> str | None:
    return at.environment.unsettled.reason if at.environment.unsettled else None


ALLOWED: dict[str, Callable[[Situation], bool]] = {
    "manual offer": lambda at: at.account.provider == "manual" and is_sold(at),
    "subscription change": lambda at: any(each.access in ENTITLING for each in at.account.subscriptions),
    "subscription resume": may_resume,
    "tenant checkout": lambda at: at.account.provider != "manual" and is_sold(at),
    "tenant offboard": lambda at: at.tenant.status not in LEFT,
    "tenant portal": lambda at: at.account.customer is not None and at.account.provider != "manual",
    "tenant resume": lambda at: at.tenant.status not in LEFT and _is_held(at),
    "environment apply": lambda at: _reason(at) == "approval_granted",
    "environment plan": lambda at: _reason(at) == "approval_rejected" and at.tenant.status not in LEFT,
    "environment retry": lambda at: at.environment.failure is not None and at.environment.status == "purging",
    "tenant retry": lambda at: at.environment.failure is not None and at.tenant.status not in LEFT,
}
"""Commands that a service refuses in some states, each with the states in which it is accepted."""
CONFIRMED = {"environment apply", "manual offer", "subscription change", "subscription resume", "tenant offboard"}
"""Commands whose effect costs money or cannot be taken back: they ask for a confirmation."""


def situations() -> Iterator[Situation]:
    """Yields tenants in every status with random faults, holds, subscriptions and accounts."""
    for number in range(SITUATIONS):
        random = Random(number)
        situation = Situation(random)
        for fault in random.sample(list(FAULTS), random.choice([0, 0, 0, 1, 2])):
            fault(situation)
        if situation.account.customer is None:
            # One fault keeps the account from being opened, so the other one cannot be about a subscription.
            situation.account = situation.account.model_copy(update={"subscriptions": ()})
        if random.random() < 0.8:
            _change_account(situation, random)
            _change_tenant(situation, random)
        _add_problems(situation, random)
        yield situation


def _change_account(at: Situation, random: Random) -> None:
    fields: dict[str, object] = {
        "provider": random.choice(["stripe", "stripe", "manual"]),
        "debt": random.choice([None, "29.00 EUR"]) if at.account.customer else None,
        "sells_with_debt": random.random() < 0.7,
        "checkout_expired": random.random() < 0.2,
        "leaving": random.random() < 0.2,
        "plan_of_built_size": random.choice([None, "starter"]),
        "provider_problem": random.choice([None, None, "it did not answer in 2 s"]),
    }
    if at.account.status == "failed":
        refused = random.choice([None, "is_coupon_refused", "is_customer_refused"])
        fields |= {refused: True} if refused else {}
    elif at.account.status == "open" and random.random() < 0.6:
        chosen = random.sample(SUBSCRIPTIONS, random.choice([1, 1, 2]))
        fields["subscriptions"] = tuple(
            at.subscription(access, status, pause=pause, debt=random.choice([None, "29.00 EUR"]))
            for access, status, pause in chosen
        )
    elif at.account.status == "open":
        fields["is_customer_deleted"] = fields["provider"] != "manual" and random.random() < 0.3
    at.account = at.account.model_copy(update=fields)


def _change_tenant(at: Situation, random: Random) -> None:
    holds = random.sample(HOLDS, random.choice([0, 1, 2]))
    # Without an account there was no subscription: a tenant that left was never built.
    choices = [each for each in Status if at.account.customer or each not in {Status.OFFBOARDING, Status.RETAINED}]
    status = random.choice(choices).value
    until = random.choice([None, NOW + timedelta(minutes=15)])
    at.tenant = at.tenant.model_copy(update={"status": status, "holds": tuple(holds), "waits_until": until})
    environment: dict[str, object] = {
        "status": random.choice(["registered", "building", "ready", "failed"]),
        "access": "open",
    }
    if environment["status"] == "failed":
        environment |= {"failed_resource": "role.main", "failure": "permission denied"}
    if status == "purging":
        environment |= {"status": "purging", "failed_resource": "role.main", "failure": "it still exists"}
    if status not in LEFT and (reason := random.choice([None, None, *UNSETTLED])):
        command = UNSETTLED[reason].format(slug=at.tenant.slug)
        environment["unsettled"] = UnsettledState(reason=reason, text="the plan waits", command=command, since=NOW)
    pending = random.choice([None, "the placement changes"])
    target = random.choice(["open", "closed"])
    environment["breach"] = random.choice([None, None, None, "the policy of table documents is another"])
    at.environment = at.environment.model_copy(update={**environment, "pending": pending, "target_access": target})


def _add_problems(at: Situation, random: Random) -> None:
    if random.random() < 0.1:
        command = random.choice([None, f"paybill tenant show {at.tenant.slug}"])
        incident = OpenIncident(id=f"inc_{'1' * 32}", kind="leftover", summary="a charge", command=command, since=NOW)
        violation = OpenViolation(number=4, statement="a rule", left="one side", right="the other", since=NOW)
        at.change(at.service(), incidents=(incident,), violations=(violation,))
    if random.random() < 0.05:
        at.change(at.service(), checks={"bus": "ok", "database": "ok", "relay": "stopped"})
    if random.random() < 0.05:
        at.unanswered.append(Unanswered(service="provisioner", code="timeout", detail="it did not answer"))


def explained(situation: Situation) -> Explanation:
    return explain(situation.tenant.slug, situation.all_parts(), situation.unanswered, situation.machine())


def commands_of(explanation: Explanation) -> set[str]:
    """Returns the commands of all causes, those in their reasons, and the next one."""
    texts = (text for cause in explanation.causes for text in cause.because)
    in_texts = {found for text in texts for found in re.findall(r"paybill [a-z].*$", text)}
    return {explanation.command, *(cause.command for cause in explanation.causes), *in_texts}


def takes(command: str, option: str) -> bool:
    """Returns whether the help of a command of `paybill` lists an option."""
    node: Branch | Leaf = TREE
    words = iter(command.split()[1:])
    while isinstance(node, Branch):
        name = next(words)
        node = node.commands[name]
    return any(
        option in parameter.opts and not getattr(parameter, "hidden", False) for parameter in load(node, name).params
    )


def declared_kinds() -> set[str]:
    """Returns the kinds of causes in the rules."""
    trees = [ast.parse(inspect.getsource(module)) for module in (why_causes, why_customer)]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "Cause" and isinstance(call.args[0], ast.Constant)
    }


def test_the_diagnosis_and_the_tenant_service_agree_on_who_has_left() -> None:
    assert frozenset(status.value for status in LEFT_STATUS) == LEFT


def test_every_command_that_can_be_printed_takes_its_arguments_and_is_accepted_in_its_state() -> None:
    kinds, shapes, refused, checked = set[str](), dict[str, str](), set[str](), set[str]()
    for situation in situations():
        explanation = explained(situation)
        kinds |= {cause.kind for cause in explanation.causes}
        for command in commands_of(explanation):
            # Names and ids differ in their numbers only.
            shapes.setdefault(re.sub(r"\d+", "0", command), command)
            verb = " ".join(command.split()[1:3])
            if verb in ALLOWED:
                checked.add(verb)
                # Without the answer of a service, the diagnosis cannot know the state.
                if not situation.unanswered and not ALLOWED[verb](situation):
                    refused.add(f"{command}: {situation.tenant.status}, {explanation.headline}")
    with_yes = {" ".join(command.split()[1:3]) for command in shapes.values() if takes(command, "--yes")}
    incomplete = []
    for command in shapes.values():
        try:
            assert parsed(command)
        except (TyperException, KeyError) as error:
            incomplete.append(f"{command}: {error!r}")

    assert incomplete == []
    assert sorted(refused)[:5] == []
    assert with_yes == CONFIRMED
    assert checked == ALLOWED.keys()
    assert declared_kinds() - kinds == set()
