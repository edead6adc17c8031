"""`--dry-run` prints what would be recorded, is refused as the command would be, and changes nothing."""

import pytest
from paybill_cli.exit_codes import ExitCode


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["suspend", "--reason", "abuse"], "holds changed: operator: abuse"),
        (["hold", "--legal", "--case", "2026-17"], "legal hold for case 2026-17: data is kept"),
        (["offboard", "--reason", "closed"], "left before there was an environment: closed"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_dry_run_prints_what_would_be_recorded(on_stack, customers, arguments: list[str], sentence: str) -> None:
    tenant = customers.sign_up()
    verb, *options = arguments

    dry = on_stack("tenant", verb, tenant["slug"], *options, "--dry-run")
    facts = on_stack("tenant", verb, tenant["slug"], *options, "--dry-run", "--json").data["would_record"]

    assert dry.code == ExitCode.OK
    assert dry.out.startswith("would record: ")
    assert sentence in dry.out
    assert "nothing was changed" in dry.err
    assert {fact["aggregate"] for fact in facts} == {f"tenant/{tenant['id']}"}
    shown = on_stack("tenant", "show", tenant["slug"], "--json").data
    assert (shown["status"], shown["holds"], shown["legal_holds"]) == ("requested", [], [])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["release", "--legal", "--case", "2026-17"], "no_such_hold"),
        (["resume", "--reason", "none such"], "no_such_hold"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_dry_run_is_refused_as_the_command_would_be(on_stack, customers, arguments: list[str], code: str) -> None:
    slug = customers.sign_up()["slug"]
    verb, *options = arguments

    dry = on_stack("tenant", verb, slug, *options, "--dry-run", "--json")
    done = on_stack("tenant", verb, slug, *options, "--json")

    assert (dry.code, dry.error["code"]) == (done.code, done.error["code"]) == (ExitCode.NOT_FOUND, code)


def test_a_dry_run_with_the_key_of_an_executed_command_would_record_nothing(on_stack, customers) -> None:
    slug = customers.sign_up()["slug"]
    suspend = ("tenant", "suspend", slug, "--reason", "abuse report 7", "--idempotency-key", f"suspend-{slug}")
    on_stack(*suspend, "--yes")
    on_stack("tenant", "resume", slug)

    same = on_stack(*suspend, "--dry-run")
    other = on_stack(*suspend, "--mode", "read_only", "--dry-run", "--json")

    assert same.out == f"would record nothing: the request with the key suspend-{slug} was already executed\n"
    assert other.error["code"] == "idempotency_key_reused"
    assert on_stack("tenant", "show", slug, "--json").data["holds"] == []


def test_a_dry_run_without_a_change_would_record_nothing(on_stack, customers) -> None:
    done = on_stack("tenant", "resume", customers.sign_up()["slug"], "--dry-run")

    assert done.out.startswith("would record nothing")
