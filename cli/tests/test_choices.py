"""Options with a fixed set of values: another value is refused with the allowed ones, before a request is sent."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal, get_origin

import pytest
from paybill_billing.licences.domain import licences
from paybill_billing.subscriptions.domain import changes
from paybill_billing.usage.domain import closed_windows
from paybill_billing.webhooks.domain import MessageState
from paybill_cli.command import load
from paybill_cli.exit_codes import ExitCode
from paybill_cli.tree import TREE, Branch
from paybill_contracts.billing import AccessState
from paybill_contracts.incidents import IncidentStatus
from paybill_contracts.manual import InvoiceStatus
from paybill_tenant.domain import tenants

AWAY = {"PAYBILL_API_KEY": "key"} | {
    f"PAYBILL_{name}_URL": "http://127.0.0.1:9" for name in ("TENANT", "BILLING", "PROVISIONER", "AGENT_GATEWAY")
}
"""A stack that does not answer: a value that is accepted fails with another code."""
CASES = {
    ("tenant", "list", "--status"): {*tenants.Status},
    ("subscription", "list", "--access"): {*AccessState},
    ("subscription", "changes", "--status"): {*changes.Status},
    ("usage", "windows", "--status"): {"open", *closed_windows.Status},
    ("licence", "list", "--status"): {*licences.Status},
    ("manual", "invoices", "--status"): {*InvoiceStatus},
    ("webhook", "list", "--state"): {*MessageState},
    ("incident", "list", "--status"): {*IncidentStatus},
    ("jobs", "list", "--state"): {"pending", "failed", "ended"},
}
CHOICES = ("status", "state", "access", "mode", "when", "interval")
"""Names of options whose values are a fixed set."""


def options(branch: Branch = TREE, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, node in branch.commands.items():
        if isinstance(node, Branch):
            yield from options(node, (*path, name))
        else:
            yield from (((*path, name), option) for option in load(node, name).params)


def is_literal(option: Any) -> bool:
    return get_origin(option.type_descriptor.annotation) is Literal


@pytest.mark.parametrize(("words", "allowed"), list(CASES.items()), ids=[" ".join(each) for each in CASES])
def test_another_value_is_refused_with_the_allowed_ones(
    paybill, words: tuple[str, ...], allowed: set[str | StrEnum]
) -> None:
    refused = paybill(*words, "nope", "--json", **AWAY)

    assert (refused.code, refused.error["code"]) == (ExitCode.USAGE, "usage")
    assert [value for value in allowed if f"'{value}'" not in refused.error["what"]] == []
    assert {paybill(*words, str(value), **AWAY).code for value in allowed} == {ExitCode.UNREACHABLE}


def test_every_option_of_a_fixed_set_refuses_another_value() -> None:
    found = [(path, option) for path, option in options() if option.name in CHOICES]
    free = [(*path, option.name) for path, option in found if not is_literal(option)]

    assert len(found) >= len(CASES)
    assert free == []
