"""Errors of a policy are reported with file, line and reason."""

from pathlib import Path

import pytest
from paybill_contracts.policy import Handling
from paybill_definitions.policy_file import PolicyFileError, read_policy

SHIPPED = Path(__file__).parents[3] / "services/provisioner/src/paybill_provisioner/policy.yaml"
POLICY = """\
name: standard
version: 2
creates: unattended
updates: unattended
clean_up: unattended
deletes: other_person
replaces: other_person
moves_data: other_person
cost_limit: {minor: 5000, currency: EUR, handling: approval}
approval_valid_hours: 72
"""


def test_the_shipped_policy_lets_nobody_destroy_data_alone() -> None:
    content = read_policy(SHIPPED.read_text(encoding="utf-8"), "policy.yaml").content

    assert {content.deletes, content.replaces, content.moves_data} == {Handling.OTHER_PERSON}
    assert {content.creates, content.updates, content.clean_up} == {Handling.UNATTENDED}
    assert (content.cost_limit, content.approval_valid_s, content.change_within_s) == (None, 72 * 3600, 24 * 3600)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "deletes: other_person",
            "deletes: never",
            "p.yaml:6: deletes: write 'unattended', 'approval' or 'other_person'",
        ),
        ("updates: unattended", "updates: other_person\nx: 1", "p.yaml:5: x: there is no such field"),
        (
            "updates: unattended\nclean_up: unattended\ndeletes: other_person",
            "updates: approval\nclean_up: unattended\ndeletes: unattended",
            "p.yaml:6: deletes is unattended and updates is approval: it cannot be easier",
        ),
        ("currency: EUR", "currency: XYZ", "p.yaml:9: XYZ is no currency of ISO 4217"),
        ("minor: 5000", "minor: -1", "p.yaml:9: cost_limit.minor: write 0 or more"),
        ("handling: approval", "handling: unattended", "p.yaml:9: a limit needs approval or other_person"),
        ("approval_valid_hours: 72", "approval_valid_hours: 0", "p.yaml:10: approval_valid_hours: write 1 or more"),
        (
            "approval_valid_hours: 72",
            "approval_valid_hours: 72\nchange_within_hours: 0",
            "p.yaml:11: change_within_hours: write 1 or more",
        ),
        ("moves_data: other_person\n", "", "p.yaml:1: moves_data: it is required"),
    ],
)
def test_an_error_has_file_line_and_reason(old: str, new: str, message: str) -> None:
    with pytest.raises(PolicyFileError) as error:
        read_policy(POLICY.replace(old, new, 1), "p.yaml")

    assert message in str(error.value)
