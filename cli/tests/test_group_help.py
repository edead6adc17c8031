"""The help of a group has the whole summaries of its commands."""

from collections.abc import Iterator

import pytest
from paybill_cli.tree import TREE, Branch


def groups(branch: Branch = TREE, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Branch]]:
    yield path, branch
    for name, node in branch.commands.items():
        if isinstance(node, Branch):
            yield from groups(node, (*path, name))


GROUPS = dict(groups())


@pytest.mark.parametrize(("path", "branch"), list(GROUPS.items()), ids=[" ".join(path) for path in GROUPS])
@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_the_help_of_a_group_has_the_whole_summaries_of_its_commands(
    paybill, path: tuple[str, ...], branch: Branch, columns: str
) -> None:
    done = paybill(*path, "--help", COLUMNS=columns)
    text = " ".join(done.out.split())

    assert [node.summary for node in branch.commands.values() if node.summary not in text] == []
    assert max(map(len, done.out.splitlines())) <= int(columns)
