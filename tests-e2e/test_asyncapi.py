"""The AsyncAPI documents are current, list what each service handles and publishes, and agree with the schemas."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from asyncapi_document import COMMITTED, merged, services, text
from paybill_contracts.event import Event, latest_event
from paybill_contracts.schemas import name_of, published_events, schema_of, untitled
from paybill_contracts.voided_events import EventVoided
from paybill_runtime.messaging import asyncapi
from paybill_runtime.messaging.api_key_copies import key_facts

SERVICES = {service.name: service for service in services()}
DOCUMENT = json.loads(COMMITTED.read_text(encoding="utf-8"))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def resolve(reference: str, document: Mapping[str, Any] = DOCUMENT) -> Any:
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def inlined(node: Any, document: Mapping[str, Any], within: tuple[str, ...] = ()) -> Any:
    """Returns a schema without references; a discriminator is only a hint, and AsyncAPI writes it in another way.

    within: the references that are being resolved. One of a type to itself becomes its distance from there.
    """
    if isinstance(node, list):
        return [inlined(child, document, within) for child in node]
    if not isinstance(node, dict):
        return node
    others = {key: child for key, child in node.items() if key not in {"$ref", "discriminator"}}
    siblings = {key: inlined(child, document, within) for key, child in others.items()}
    reference = node.get("$ref")
    if reference is None:
        return siblings
    if reference in within:
        return {"recursion": len(within) - within.index(reference)} | siblings
    return inlined(resolve(reference, document), document, (*within, reference)) | siblings


def published(service: str) -> list[type[Event]]:
    types = [event for event in published_events() if event.TYPE.startswith(f"{service}.")]
    return [event for event in types if event is latest_event(event.TYPE)]


def test_the_committed_document_is_current() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == text(), "run `.venv/bin/python tests-e2e/asyncapi_document.py`"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_receives_what_it_handles_and_sends_what_it_owns(name: str) -> None:
    subscriptions, of_agents = SERVICES[name].subscriptions, SERVICES[name].accepts_agents
    handlers = (subscriptions.fact_handlers | subscriptions.intake_handlers).values()
    document = asyncapi.document(name, subscriptions, of_agents=of_agents)
    found = {(operation["action"], operation["channel"]["$ref"]) for operation in document["operations"].values()}

    followed = (*key_facts(of_agents=of_agents), EventVoided)
    assert found == {
        *(("receive", f"#/channels/{name_of(handler.event)}") for handler in handlers),
        *(("receive", f"#/channels/{name_of(event)}") for event in followed),
        *(("send", f"#/channels/{name_of(event)}") for event in published(name)),
    }
    assert asyncapi.document(name, subscriptions, of_agents=of_agents) == document


def test_every_reference_resolves() -> None:
    assert set(references(DOCUMENT))
    assert [reference for reference in references(DOCUMENT) if not resolve(reference)] == []


@pytest.mark.parametrize("name", sorted(DOCUMENT["channels"]))
def test_a_channel_has_an_address_its_parameters_and_a_message(name: str) -> None:
    channel = DOCUMENT["channels"][name]
    message = resolve(channel["messages"]["event"]["$ref"])

    assert [parameter for parameter in channel["parameters"] if f"{{{parameter}}}" not in channel["address"]] == []
    assert channel["address"].endswith(f"}}.{name}")
    assert message["summary"]
    assert resolve(message["headers"]["$ref"])["required"]


@pytest.mark.parametrize("event", published_events(), ids=name_of)
def test_the_payload_of_a_message_has_the_published_schema(event: type[Event]) -> None:
    published_schema = schema_of(event)
    payload = inlined(resolve(f"#/components/messages/{name_of(event)}")["payload"], DOCUMENT)

    only_in_the_file = {"$schema", "$id", "$defs", "title", "x-paybill"}
    expected = {key: part for key, part in published_schema.items() if key not in only_in_the_file}
    assert payload == untitled(inlined(expected, published_schema))


def test_only_facts_are_sent_and_intake_events_are_received() -> None:
    channels = DOCUMENT["channels"]

    assert DOCUMENT["operations"]["tenant.send.tenant.tenant_activated.v1"]["action"] == "send"
    assert channels["tenant.tenant_activated.v1"]["address"] == "paybill.events.{partition}.tenant.tenant_activated.v1"
    assert DOCUMENT["operations"]["billing.receive.usage.recorded.v1"]["action"] == "receive"
    assert channels["usage.recorded.v1"]["address"] == "paybill.intake.{publisher}.usage.recorded.v1"


def test_two_services_cannot_describe_one_name_differently() -> None:
    documents = {name: asyncapi.document(name, SERVICES[name].subscriptions) for name in ("billing", "tenant")}
    documents["tenant"]["components"]["schemas"]["Headers"] = {}

    with pytest.raises(ValueError, match="described in two ways: Headers"):
        merged(documents)
