"""The AsyncAPI document is well formed, and all its references resolve."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from paybill_contracts.__main__ import main
from paybill_contracts.asyncapi import document
from paybill_contracts.schemas import published_events

DOCUMENT = json.loads(json.dumps(document(published_events())))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def resolve(reference: str) -> Any:
    node: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def test_it_has_the_required_sections() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    assert set(DOCUMENT) <= {
        "asyncapi",
        "id",
        "info",
        "defaultContentType",
        "servers",
        "channels",
        "operations",
        "components",
    }


def test_every_reference_resolves() -> None:
    assert set(references(DOCUMENT))
    assert [reference for reference in references(DOCUMENT) if not resolve(reference)] == []


@pytest.mark.parametrize("name", sorted(DOCUMENT["channels"]))
def test_a_channel_has_an_address_its_parameters_a_message_and_an_operation(name: str) -> None:
    channel = DOCUMENT["channels"][name]
    operation = DOCUMENT["operations"][name.replace(".", "_")]
    message = resolve(channel["messages"]["event"]["$ref"])

    assert [parameter for parameter in channel["parameters"] if f"{{{parameter}}}" not in channel["address"]] == []
    assert resolve(operation["channel"]["$ref"]) == channel
    assert message["payload"]["$ref"].startswith("#/components/schemas/")
    assert resolve(message["headers"]["$ref"])["required"]


def test_events_are_sent_and_intake_events_are_received() -> None:
    assert DOCUMENT["operations"]["tenant_tenant_activated_v1"]["action"] == "send"
    assert DOCUMENT["channels"]["tenant.tenant_activated.v1"]["address"] == (
        "paybill.events.{partition}.tenant.tenant_activated.v1"
    )
    assert DOCUMENT["operations"]["usage_recorded_v1"]["action"] == "receive"
    assert DOCUMENT["channels"]["usage.recorded.v1"]["address"] == "paybill.intake.{publisher}.usage.recorded.v1"


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["asyncapi"]) == 0
    assert json.loads(capsys.readouterr().out) == DOCUMENT
