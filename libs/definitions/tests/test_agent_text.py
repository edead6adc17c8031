"""Differences of bundles can be reviewed: grants and steps are shown in the words of their files."""

import pytest
from agent_samples import TASK, bundle
from paybill_definitions.agent_cedar import expression
from paybill_definitions.agent_differences import differences
from paybill_definitions.agent_text import condition_text

OPEN = '@id("open") @columns("id, points") permit(principal in Role::"clerk", action == Action::"read", '
ALL = '@id("all") @columns("*") permit(principal in Role::"clerk", action, resource);\n'


@pytest.mark.parametrize(
    "text",
    [
        "points > 1 && (is_open || points <= 9) && !(resource has due)",
        '["a", "b*"].contains(owner) || owner like "a\\"b\\**"',
        'resource has at && at >= datetime("2026-01-31T08:00:00Z")',
        "order.total != -5",
        "order has total && order.total > points",
        "true",
    ],
)
def test_a_condition_is_written_as_in_its_file(text: str) -> None:
    written = condition_text(expression(text, None)[1])

    assert written == text
    assert expression(written, None)[1] == expression(text, None)[1]


def test_a_grant_is_shown_whole_before_and_after() -> None:
    before = bundle(TASK, grants=f"{ALL}{OPEN}resource is tasks) when {{ resource.points > 1 }};")
    after = bundle(TASK, grants=f"{ALL}{OPEN}resource is tasks) when {{ resource.points > 0 }};")
    text = "permit role clerk to read: tasks (id, points) when resource.points > {}"

    (changed,) = differences(before, after)
    (removed,) = differences(before, bundle(TASK, grants=ALL))
    (added,) = differences(bundle(TASK, grants=ALL), before)

    assert (changed.of, changed.change) == ("grant open", "changed")
    assert (changed.before, changed.after) == (text.format(1), text.format(0))
    assert (removed.change, removed.before, removed.after) == ("removed", text.format(1), None)
    assert (added.change, added.before, added.after) == ("added", None, text.format(1))


def test_a_removed_workflow_is_called_removed() -> None:
    before = bundle(TASK)

    (first,) = differences(before, before.model_copy(update={"workflows": ()}))
    shown = {each.change for each in differences(None, before) if each.of == "workflow w"}

    assert (first.of, first.change) == ("workflow w", "removed")
    assert (first.before, first.after) == ("role clerk, steps task", None)
    assert {"added", "steps.task.where.id", "limits.calls", "once"} <= shown
