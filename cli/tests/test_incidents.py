"""`paybill incident` on a real stack."""

from paybill_cli.commands.incidents import for_people
from paybill_cli.exit_codes import ExitCode

UNKNOWN = "inc_" + "0" * 32


def test_open_incidents_are_listed(on_stack) -> None:
    done = on_stack("incident", "list", "--tenant", "ten_" + "0" * 32)

    assert (done.code, done.rows) == (ExitCode.OK, [])
    assert done.out.startswith("id\tservice\tkind\tsubject")


def test_a_kind_without_incidents_is_explained(on_stack) -> None:
    done = on_stack("incident", "list", "--kind", "foo")

    assert done.code == ExitCode.OK
    assert "no incidents match; kinds of open incidents are: " in done.err


def test_an_unknown_incident_is_not_found_and_an_invalid_id_is_wrong_use(on_stack) -> None:
    unknown = on_stack("incident", "close", UNKNOWN, "--reason", "refunded", "--yes", "--json")
    invalid = on_stack("incident", "show", "one", "--json")

    assert (unknown.code, unknown.error["code"]) == (ExitCode.NOT_FOUND, "incident_not_found")
    assert (invalid.code, invalid.error["next"]) == (ExitCode.USAGE, "paybill incident list")


def test_the_evidence_is_one_field_for_each_value_in_the_place_of_the_list() -> None:
    evidence = [{"name": "customer", "value": "cus_1"}, {"name": "provider", "value": "stripe"}]

    fields = for_people({"kind": "charge_without_tenant", "evidence": evidence, "owner": None})

    assert list(fields.items()) == [
        ("kind", "charge_without_tenant"),
        ("evidence customer", "cus_1"),
        ("evidence provider", "stripe"),
        ("owner", None),
    ]
