"""Tests of the tools that are derived from a bundle."""

import pytest
from jsonschema import Draft202012Validator, ValidationError
from paybill_agent_gateway.tools import ToolCache, executed, tools
from tool_samples import BUNDLE, REFUND, TIDY

RUN = "run_" + "0" * 32
SUPPORT = tools(BUNDLE, "support")
ANSWER = {"run": RUN, "seq": 1, "state": "waiting", "step": None, "values": {}, "rows": {}, "next": [], "ended": None}


def _valid(schema: object, value: object) -> bool:
    try:
        Draft202012Validator(schema).validate(value)  # type: ignore[arg-type]
    except ValidationError:
        return False
    return True


def test_a_role_has_the_tools_of_its_own_workflows_sorted_by_name() -> None:
    assert list(SUPPORT) == [
        "refund",
        "refund__propose",
        "tidy",
        "tidy__correct",
        "tidy__kind",
        "tidy__note",
        "tidy__remove",
    ]
    assert list(tools(BUNDLE, "auditor")) == ["count"]
    assert tools(BUNDLE, "nobody") == {}


@pytest.mark.parametrize("role", ["support", "auditor"])
def test_each_schema_is_valid_and_allows_no_other_property(role: str) -> None:
    for tool in tools(BUNDLE, role).values():
        for schema in (tool.document["inputSchema"], tool.document["outputSchema"]):
            Draft202012Validator.check_schema(schema)
            assert schema["additionalProperties"] is False
            assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    ("tool", "arguments", "allowed"),
    [
        ("refund", {"ticket": "t-17"}, True),
        ("refund", {"ticket": 17}, False),
        ("refund", {}, False),
        ("refund", {"ticket": "t-17", "limit": 3}, False),
        ("refund__propose", {"run": RUN, "seq": 2, "amount": 1200, "reason": "broken"}, True),
        ("refund__propose", {"run": RUN, "seq": 2, "amount": 0, "reason": "broken"}, False),
        ("refund__propose", {"run": RUN, "seq": 2, "amount": 2**63, "reason": "broken"}, False),
        ("refund__propose", {"run": RUN, "seq": 2, "amount": 1200, "reason": "x" * 201}, False),
        ("refund__propose", {"run": RUN, "seq": 2, "amount": 1200, "reason": "x", "order_id": "o-2"}, False),
        ("refund__propose", {"run": "r-1", "seq": 2, "amount": 1200, "reason": "x"}, False),
        ("tidy__kind", {"run": RUN, "seq": 2, "choice": "remove"}, True),
        ("tidy__kind", {"run": RUN, "seq": 2, "choice": "drop"}, False),
        ("tidy__correct", {"run": RUN, "seq": 2, "reason": "late"}, True),
        ("tidy__correct", {"run": RUN, "seq": 2, "reason": "other"}, False),
        ("tidy__remove", {"run": RUN, "seq": 2}, True),
    ],
)
def test_arguments_are_inputs_and_slots_alone(tool: str, arguments: object, allowed: bool) -> None:  # noqa: FBT001
    assert _valid(SUPPORT[tool].document["inputSchema"], arguments) is allowed


def test_a_bound_by_a_field_is_described_in_words() -> None:
    amount = SUPPORT["refund__propose"].document["inputSchema"]["properties"]["amount"]

    assert amount == {"type": "integer", "minimum": 1, "maximum": 2**63 - 1, "description": "at most order.total"}


def test_an_answer_has_the_columns_of_the_steps_that_are_not_hidden() -> None:
    schema = SUPPORT["refund"].document["outputSchema"]
    order = {"id": "o-1", "total": 5000}

    assert _valid(schema, ANSWER | {"values": {"order": order}})
    assert not _valid(schema, ANSWER | {"values": {"order": order | {"secret": "x"}}})
    assert _valid(SUPPORT["refund__propose"].document["outputSchema"], ANSWER | {"values": {"order": order}})
    assert _valid(SUPPORT["tidy"].document["outputSchema"], ANSWER | {"rows": {"all": [{"id": "r-1", "amount": 1}]}})


@pytest.mark.parametrize(
    ("tool", "read_only", "destructive"),
    [
        ("refund", True, False),
        ("refund__propose", False, False),
        ("tidy", False, True),  # a choice with one applicable option is made without a call
        ("tidy__kind", False, True),
        ("tidy__correct", False, True),
        ("tidy__note", True, False),
    ],
)
def test_annotations_follow_from_the_steps_that_a_call_may_execute(
    tool: str,
    read_only: bool,  # noqa: FBT001
    destructive: bool,  # noqa: FBT001
) -> None:
    assert SUPPORT[tool].document["annotations"] == {
        "readOnlyHint": read_only,
        "destructiveHint": destructive,
        "idempotentHint": True,
        "openWorldHint": False,
    }


def test_a_workflow_without_a_description_has_one_that_is_derived() -> None:
    silent = BUNDLE.model_copy(
        update={"workflows": tuple(each.model_copy(update={"description": ""}) for each in BUNDLE.workflows)}
    )
    found = {name: tool.document["description"] for name, tool in tools(silent, "support").items()}

    assert found["refund"].startswith("Starts the workflow refund. Reads one row of ")
    assert found["refund__propose"].startswith("Step propose of refund. Creates one row of refunds.")
    assert not [each for each in found.values() if "  " in each]


def test_a_description_is_made_of_the_bundle_alone() -> None:
    assert SUPPORT["refund"].document["description"] == "Refunds the order of a ticket."
    assert SUPPORT["refund__propose"].document["description"] == (
        "Step propose of refund: Refunds the order of a ticket. Creates one row of refunds. It cannot be undone. "
        "A person may have to approve it; then repeat the call with the same arguments."
    )


def test_a_call_executes_its_step_and_those_that_need_no_other_call() -> None:
    assert [step.name for step in executed(REFUND, "ticket")] == ["ticket", "order"]
    assert [step.name for step in executed(TIDY, "kind")] == ["kind", "remove"]
    assert [step.name for step in executed(TIDY, "correct")] == ["correct"]


def test_tools_are_derived_once_for_each_bundle_and_role() -> None:
    cache = ToolCache()
    first = cache.tools("hash", BUNDLE, "support")

    assert cache.tools("hash", BUNDLE, "support") is first
    assert cache.tools("hash", BUNDLE, "auditor") is not first
    for number in range(100):
        cache.tools(str(number), BUNDLE, "support")
    assert cache.tools("hash", BUNDLE, "support") is not first
