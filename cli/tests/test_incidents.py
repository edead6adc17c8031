"""`paybill incident` on a real stack."""

from paybill_cli.exit_codes import ExitCode

UNKNOWN = "inc_" + "0" * 32


def test_open_incidents_are_listed(on_stack) -> None:
    done = on_stack("incident", "list", "--tenant", "ten_" + "0" * 32)

    assert (done.code, done.rows) == (ExitCode.OK, [])
    assert done.out.startswith("id\tservice\tkind\tsubject")


def test_an_unknown_incident_is_not_found_and_an_invalid_id_is_wrong_use(on_stack) -> None:
    unknown = on_stack("incident", "close", UNKNOWN, "--reason", "refunded", "--yes", "--json")
    invalid = on_stack("incident", "show", "one", "--json")

    assert (unknown.code, unknown.error["code"]) == (ExitCode.NOT_FOUND, "incident_not_found")
    assert (invalid.code, invalid.error["next"]) == (ExitCode.USAGE, "paybill incident list")
