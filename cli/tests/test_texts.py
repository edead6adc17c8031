"""Options with texts and addresses: a hidden character is refused and named, before a request is sent."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from paybill_cli.command import load
from paybill_cli.texts import email, text
from paybill_cli.tree import TREE, Branch

TEXTS = {"--case", "--name", "--owner", "--po", "--reason", "--reference", "--value"}
ADDRESSES = {"--email"}


def options(branch: Branch = TREE) -> Iterator[Any]:
    for name, node in branch.commands.items():
        yield from options(node) if isinstance(node, Branch) else load(node, name).params


def test_every_option_with_a_text_checks_it() -> None:
    expected = dict.fromkeys(TEXTS, text) | dict.fromkeys(ADDRESSES, email)
    found = {
        (name, option.type_descriptor.parameter_info.parser)
        for option in options()
        for name in {*option.opts} & expected.keys()
    }

    assert found == {*expected.items()}
    assert [each.opts for each in options() if each.opts[0] in expected and each.default == ""] == []  # is parsed, too


@pytest.mark.parametrize("parser", [text, email])
def test_a_hidden_character_is_refused(parser) -> None:
    with pytest.raises(typer.BadParameter, match=r"U\+202E|RIGHT-TO-LEFT"):
        parser("ops\u202e@acme.example")


def test_a_text_is_passed_on_in_the_form_in_which_it_is_kept() -> None:
    assert (text(" Zoe\u0308 "), email("Ops@ACME.example")) == ("Zoë", "Ops@acme.example")


def test_a_refusal_names_the_option_and_what_to_remove(paybill) -> None:
    refused = paybill("tenant", "suspend", "acme", "--mode", "blocked", "--yes", "--reason", "a\u200bb", "--json")

    assert (refused.code, refused.error["code"]) == (2, "usage")
    assert refused.error["what"].startswith("Invalid value for '--reason': remove character 2, U+200B:")
