"""The next step of a refusal is a command that can be run, with values where they are known."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest
from paybill_cli.client.next_steps import NEXT_STEPS, line_with, next_step, remember_arguments
from paybill_cli.command import load
from paybill_cli.stack_options import on_this_stack, remember_stack
from paybill_cli.tree import TREE, Branch, Leaf
from paybill_licence import MAX_SEATS
from typer import TyperException

ROOT = Path(__file__).parents[2]
SOURCES = [path for place in ("libs/*/src", "services/*/src", "cli/src") for path in ROOT.glob(f"{place}/**/*.py")]
SAMPLES = {
    "approval": "apr_0123456789abcdef0123456789abcdef",
    "change": "chg_1",
    "command": "paybill tenant create",
    "customer": "cus_1",
    "file": "plans.yaml",
    "folder": "agents",
    "id": "0190a5b0-0000-7000-8000-000000000001",
    "licence": "lic_1",
    "line_without_coupon": "paybill tenant create acme --plan team --region eu-central --email a@b.example",
    "line_without_customer": "paybill tenant create acme --plan team --region eu-central --email a@b.example",
    "line": "paybill tenant suspend acme --reason abuse",
    "slug": "acme",
    "subscription": "acme",
    "tenant": "acme",
}
LINES = {
    "legal_missing": "paybill tenant hold acme --case 3",
    "drops_scheduled_phases": "paybill subscription change acme --quantity 2 --reason growth",
    "no_period": "paybill subscription cancel acme --reason closed --when period_end",
    "only_now": "paybill subscription change acme --quantity 2 --reason growth --when period_end",
    "too_many_seats": "paybill licence issue acme",
}
"""Lines of the commands whose refusal adds an option to them."""
NOT_A_COMMAND = {
    "idempotency_key_missing, no_such_route, too_large, too_slow, no_key, publisher_not_allowed, wrong_scope": "it "
    "is about another program, an address or rights",
    "idempotency_key_reused, outcome_unknown, invalid_idempotency_key": "only the caller knows its key",
    "usage_of_what, usage_too_large": "somebody has to decide on another request",
}
"""Codes whose next step is an action, and the reason."""
NOT_ANSWERED = {
    "conflict, forbidden, not_found, refused": "kinds of refusals, each of which has a code of its own",
    "account_order, billing_period_order, change_order, licence_key_order, licence_order, licence_revocations_order, "
    "move_order, payment_order, reconciliation_order, trial_order, window_order": "an event without the one before "
    "it is a bug, which the log and the retry queue show",
    "cannot_unseal, malformed_fact, refused_fact, invalid_event, unknown_event, fact_too_large": "events are "
    "handled, not requested",
    "action_voided, actions_not_entitled, agent_not_active, approval_denied, approval_expired, budget_exceeded, "
    "frozen, inputs_differ, invalid_field, invalid_input, not_permitted, out_of_budget, outcome_pending, "
    "resource_drifted, row_denied, row_exists, row_missing, rows_changed, rows_too_large, run_ended, seq_reused, "
    "step_exhausted, step_not_allowed, "
    "too_many_rows, untrusted_value, value_refused, wrong_seq, wrong_tenant": "refusals of calls of agents, which "
    "name the steps that are allowed next",
    "no_agent, not_acceptable, origin_refused, unknown_tool, wrong_content_type": "no command calls the "
    "endpoint of agents",
    "bad_request": "no command sends what is no HTTP",
    "condition_invalid": "conditions are checked before they are published",
    "plan_mismatch, too_many_members, usage_outside_window, usage_too_late": "raised in handlers and in jobs",
    "no_statement": "no command requests the statement of a tenant",
    "secret_forbidden, secret_not_found, too_many_invoices, unknown_provider_status, overtaken": "raised in jobs",
}
"""Codes that no request of a command is refused with, and the reason."""
PLACEHOLDERS = {
    "WHY": "the reason, which only the operator knows",
    "NUMBER": "the number of a purchase order, which only the operator knows",
    "FILE": "a file of the operator that was not named yet",
    "NAME": "a name of the operator that was not named yet",
    "URL": "the address of another installation",
}
"""Placeholders in messages whose value is not known where the message is made."""


def codes() -> set[str]:
    """Returns the codes of the services; libraries for other programs name the next step in the error itself."""
    found = set()
    for path in SOURCES:
        if path.relative_to(ROOT).parts[:2] in {("libs", "client"), ("libs", "licence"), ("libs", "stripe-fake")}:
            continue
        text = path.read_text()
        found |= set(re.findall(r"^    code(?:: ClassVar\[str\])? = \"([a-z_]+)\"$", text, re.MULTILINE))
        found |= set(re.findall(r"\b[Pp]roblem\(\s*\d{3},\s*\"([a-z_]+)\"", text))
    return found


def parsed(text: str) -> bool:
    """Returns whether `text` is a complete command of `paybill`: its options and arguments are parsed."""
    program, *arguments = shlex.split(text)
    node: Branch | Leaf = TREE
    name = program
    while isinstance(node, Branch):
        name, *arguments = arguments
        node = node.commands[name]
    if arguments != ["--help"]:
        load(node, name).make_context(name, arguments)
    return program == "paybill"


def messages() -> Iterator[tuple[str, str]]:
    """Yields the text of every message, with its file: no docstrings, no help and no description of an API."""
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        ignored = {
            id(child)
            for node in ast.walk(tree)
            if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            or (isinstance(node, ast.keyword) and node.arg in {"help", "description", "metavar"})
            for child in ast.walk(node)
        }
        # Parts of a text with values are yielded with it.
        ignored |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            if id(node) not in ignored:
                yield path.relative_to(ROOT).as_posix(), text


def test_every_code_has_a_next_step_or_a_reason_to_have_none() -> None:
    without = {code for codes_ in NOT_ANSWERED for code in codes_.split(", ")}

    assert sorted(codes() - NEXT_STEPS.keys() - without) == []
    assert sorted(without - codes()) == [], "no longer defined"
    assert sorted(NEXT_STEPS.keys() & without) == []


@pytest.mark.parametrize("code", NEXT_STEPS)
def test_the_commands_of_a_next_step_exist_and_take_their_arguments(code: str) -> None:
    for step in NEXT_STEPS[code]:
        filled = step.format_map({**SAMPLES, "line": LINES.get(code, SAMPLES["line"])})
        for command in re.findall(r"paybill [a-z][^,;:`]*", filled):
            try:
                assert parsed(re.sub(r" (shows|then) .*", "", command))
            except TyperException as error:
                pytest.fail(f"{command}: {error.format_message()}")


def test_a_command_that_a_service_or_a_diagnosis_names_takes_its_arguments() -> None:
    named = [
        (file, text)
        for file, text in messages()
        if text.startswith("paybill ") and file.startswith(("services/", "libs/contracts/", "libs/runtime/"))
    ]
    refused = []
    for file, text in named:
        try:
            assert parsed(text.replace("{}", "sub_1"))
        except (TyperException, KeyError) as error:
            refused.append(f"{file}: {text}: {error!r}")

    assert len(named) > 20
    assert refused == []


@pytest.mark.parametrize("code", NEXT_STEPS)
def test_the_last_alternative_needs_no_argument_of_the_command(code: str) -> None:
    assert [field for _, field, _, _ in Formatter().parse(NEXT_STEPS[code][-1]) if field] == []


def test_the_next_step_is_a_command_unless_there_is_a_reason() -> None:
    actions = {code for codes_ in NOT_A_COMMAND for code in codes_.split(", ")}

    command = re.compile(r"paybill |\{(line|command)(_\w+)?\}")
    phrases = {code for code, steps in NEXT_STEPS.items() if not command.match(steps[0])}

    assert phrases == actions
    assert [code for code in NEXT_STEPS if "correct" in NEXT_STEPS[code][0] and code not in actions] == []


def test_a_repeated_line_has_the_other_value() -> None:
    remember_arguments({"line": "paybill tenant create acme --region moon --name 'Acme Inc'"})
    assert line_with("--region", "eu-central") == "paybill tenant create acme --region eu-central --name 'Acme Inc'"

    remember_arguments({"line": "paybill tenant create acme --region=moon"})
    assert line_with("--region", "eu-central") == "paybill tenant create acme --region=eu-central"

    remember_arguments({"line": "paybill subscription pause acme"})
    assert line_with("--idempotency-key", "a") == "paybill subscription pause acme --idempotency-key a"


def test_the_proposed_seats_are_the_most_of_a_licence() -> None:
    remember_arguments({"line": "paybill licence issue acme"})

    assert next_step("too_many_seats") == f"paybill licence issue acme --seats {MAX_SEATS}"


def test_a_next_step_has_the_arguments_of_the_command() -> None:
    remember_arguments({"tenant": "acme", "subscription": None})

    assert next_step("tenant_left") == "paybill tenant show acme"
    assert next_step("not_paused") == "paybill subscription list"
    assert next_step("a_code_of_a_later_version") == ""


def test_a_missing_file_and_a_missing_stack_name_a_command(paybill, tmp_path: Path) -> None:
    file = paybill("plans", "lint", tmp_path / "none.yaml", "--json")
    stack = paybill("tenant", "list", "--data-dir", tmp_path, "--json", PAYBILL_API_KEY="x")

    assert file.error["next"] == "paybill plans lint --help"
    assert stack.error["next"] == f"paybill up --data-dir {tmp_path}"


def test_a_next_step_is_one_complete_command(paybill, tmp_path: Path) -> None:
    (tmp_path / "plans.yaml").write_text("product: [")
    (tmp_path / "licence").write_text("none")
    (tmp_path / "keys").write_text('{"keys": []}')
    verify = ("licence", "verify", tmp_path / "licence", "--keys", tmp_path / "keys")
    printed = {
        "paybill tenant hold acme --case 3 --json --legal": ("tenant", "hold", "acme", "--case", "3"),
        "paybill plans lint --help": ("plans", "lint", tmp_path / "plans.yaml"),
        "paybill licence keys --all": verify,
        "paybill licence verify --help": (*verify, "--at", "2026-03-01"),
    }

    found = {next_: paybill(*words, "--json", PAYBILL_API_KEY="x").error["next"] for next_, words in printed.items()}

    assert list(found.values()) == list(found)


def test_a_refused_option_is_omitted_in_the_next_command() -> None:
    remember_arguments({"line": "paybill tenant create acme --coupon SPRING20 --customer=cus_1 --payment manual"})

    assert next_step("no_coupons") == "paybill tenant create acme --customer=cus_1 --payment manual"
    expected = "paybill tenant create acme --coupon SPRING20 --payment manual --dry-run"
    assert next_step("no_existing_customers") == expected


def test_a_missing_confirmation_names_the_same_command_with_a_dry_run(on_stack, customers) -> None:
    slug = customers.sign_up()["slug"]

    done = on_stack("tenant", "suspend", slug, "--reason", "abuse report 7", "--json")

    next_ = done.error["next"]
    assert next_ == f"paybill tenant suspend {slug} --reason 'abuse report 7' --json --dry-run"
    assert "add --yes" in done.error["what"]
    assert on_stack(*shlex.split(next_)[1:]).code == 0


def test_a_refusal_names_the_tenant_of_the_command(on_stack, customers) -> None:
    slug = customers.sign_up()["slug"]

    taken = on_stack("tenant", "create", slug, "--plan", "team", "--region", "eu-central", "--email", "a@b.example")
    region = on_stack("tenant", "create", "moon", "--plan", "team", "--region", "moon", "--email", "a@b.example")
    options = ("--plan", "team", "--region=eu-centrel", "--email", "a@b.example")
    misspelt = on_stack("tenant", "create", f"near-{slug}", *options, "--json").error["next"]
    hold = on_stack("tenant", "resume", slug, "--reason", "none such", "--json")

    assert f"paybill tenant show {slug}" in taken.err
    assert "choose one of eu-central, us-east" in region.err
    assert f"paybill tenant create near-{slug} --plan team --region=eu-central" in misspelt
    assert on_stack(*shlex.split(misspelt)[1:]).code == 0
    assert re.search(r"  next  paybill tenant create moon .* --region (eu-central|us-east) .* --dry-run", region.err)
    assert hold.error["next"] == f"paybill tenant show {slug}"


def test_messages_have_values_in_place_of_names_of_arguments() -> None:
    commands = [(file, text) for file, text in messages() if re.search(r"\bpaybill [a-z]", text)]
    found = {
        (file, word)
        for file, text in commands
        for word in re.findall(r"(?<![$_\w-])[A-Z]{2,}(?![\w_-])", text)
        if word not in PLACEHOLDERS and word not in {"API", "NATS"}
    }

    assert len(commands) > 100
    assert sorted(found) == []


def test_messages_name_commands_and_not_paths_of_the_api() -> None:
    found = [f"{file}: {text}" for file, text in messages() if re.search(r"\b(GET|POST|PUT|DELETE) /v1", text)]

    assert [each for each in found if not each.startswith(("cli/src/paybill_cli/demo/", "libs/stripe-fake/"))] == []


def test_a_printed_command_names_the_stack_as_the_running_command_did() -> None:
    remember_stack({"--data-dir": "/tmp/my stack"})
    named = "--data-dir '/tmp/my stack'"

    assert on_this_stack("paybill tenant portal acme") == f"paybill tenant portal acme {named}"
    assert (
        on_this_stack("next: pay, then: paybill tenant show acme")
        == f"next: pay, then: paybill tenant show acme {named}"
    )
    assert (
        on_this_stack("paybill licence show l --token, and send it")
        == f"paybill licence show l --token {named}, and send it"
    )
    assert on_this_stack("find it (paybill jobs list)") == f"find it (paybill jobs list {named})"
    resume = 'paybill subscription resume sub_1 --reason "over; it, (really) is"'
    assert on_this_stack(resume) == f"{resume} {named}"
    unchanged = (
        "paybill up --data-dir /tmp/x",
        "paybill tenant create --help",
        "paybill plans lint plans.yaml",
        "`paybill tenant resume` reverses it",
        "paybill context list",
        "it's not a paybill thing",
    )
    assert [on_this_stack(text) for text in unchanged] == list(unchanged)


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_the_next_command_runs_as_printed_on_a_stack_that_an_option_names(
    paybill, customers, real_stack, as_json: list[str]
) -> None:
    slug = customers.sign_up()["slug"]
    key = {"PAYBILL_API_KEY": real_stack.key}
    assert paybill("context", "add", "there", "--data-dir", real_stack.data_dir).code == 0

    for option in (["--data-dir", str(real_stack.data_dir)], ["--context", "there"]):
        why = paybill("why", slug, *option, *as_json, **key)
        printed = why.data["next"] if as_json else why.err.splitlines()[-1].removeprefix("next: ")
        assert printed == shlex.join(["paybill", "tenant", "checkout", slug, *option])
        assert paybill(*shlex.split(printed)[1:], **key).code == 0

        missing = paybill("tenant", "show", "none-such", *option, "--json", **key).error["next"]
        assert missing == shlex.join(["paybill", "tenant", "list", *option])
        assert paybill(*shlex.split(missing)[1:], **key).code == 0
