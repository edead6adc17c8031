"""AsyncAPI 3 document of the events that a service receives and sends (https://www.asyncapi.com/docs/reference).

FastStream lists operations and schemas from the router of the service's subscriptions. It describes neither parameters
of an address nor CloudEvents headers, and it makes a channel for each operation: the rest of the document is made here.
"""

import re
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Response
from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI
from paybill_contracts.envelope import INTAKE_ROOT
from paybill_contracts.event import PARTITIONS, latest_event
from paybill_contracts.schemas import published_events, untitled
from paybill_contracts.voided_events import EventVoided

from paybill_runtime.http.router import Router
from paybill_runtime.messaging.api_key_copies import key_facts
from paybill_runtime.messaging.subscriptions import Subscriptions

_CLOUDEVENTS_HEADERS = ("ce-id", "ce-type", "ce-source", "ce-time", "ce-subject", "ce-dataschema", "traceparent")
_PAYBILL_HEADERS = ("pb-aggregate", "pb-revision", "pb-cause", "pb-correlation", "pb-actor")
_PARAMETERS = {
    "partition": {
        "enum": [str(number) for number in range(PARTITIONS)],
        "description": "First byte of SHA-256 of the tenant id, mod 16.",
    },
    "publisher": {"description": "The publisher; its credentials allow this name only."},
}


def document(service: str, subscriptions: Subscriptions, *, of_agents: bool = False) -> dict[str, Any]:
    """Returns the document, ready for JSON. An operation is named `receive.<type>.v<n>` or `send.<type>.v<n>`.

    of_agents: the service accepts keys of agents, and receives their facts.
    """
    owned = [event for event in published_events() if event.TYPE.startswith(f"{service}.")]
    subscriptions.follows((*key_facts(of_agents=of_agents), EventVoided))
    subscriptions.publishes(event for event in owned if event is latest_event(event.TYPE))
    broker = NatsBroker(routers=[subscriptions.router], apply_types=False, logger=None)
    specification = AsyncAPI(
        broker,
        title=f"Paybill {service}",
        version="1",
        description="Events that the service receives and sends, in the streams EVENTS and INTAKE.",
        license={"name": "Apache-2.0"},
    )
    listed = specification.to_specification().to_jsonable()
    schemas = untitled(listed["components"]["schemas"])
    channels, operations, messages = {}, {}, {}
    for key, operation in sorted(listed["operations"].items()):
        name = key.partition(".")[2]
        [reference] = listed["channels"][key]["messages"].values()
        payload = listed["components"]["messages"][_last(reference)]["payload"]
        address = listed["channels"][key]["address"]
        channels[name] = _channel(name, address)
        messages[name] = _message(payload, schemas[_last(payload)], from_intake=address.startswith(INTAKE_ROOT))
        operations[key] = {
            "action": operation["action"],
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/event"}],
            "tags": [{"name": name.partition(".")[0]}],
        }
    headers = {
        "Headers": _headers((*_CLOUDEVENTS_HEADERS, *_PAYBILL_HEADERS)),
        "IntakeHeaders": _headers(_CLOUDEVENTS_HEADERS),
    }
    return {
        "asyncapi": listed["asyncapi"],
        "info": listed["info"],
        "defaultContentType": listed["defaultContentType"],
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas | headers},
    }


def route(service: str, subscriptions: Subscriptions, *, of_agents: bool = False) -> APIRouter:
    """Returns `/asyncapi.json`, which needs no API key, like `/openapi.json`: both describe published code.

    The document is built at the first request, so that a service that nobody asks builds no schemas.
    """
    router = Router()
    built: list[bytes] = []

    @router.get("/asyncapi.json", include_in_schema=False)
    async def asyncapi() -> Response:
        if not built:
            built.append(orjson.dumps(document(service, subscriptions, of_agents=of_agents)))
        return Response(built[0], media_type="application/json")

    return router


def _channel(name: str, address: str) -> dict[str, Any]:
    parameters = {parameter: _PARAMETERS[parameter] for parameter in re.findall(r"\{(\w+)\}", address)}
    return {
        "address": address,
        "messages": {"event": {"$ref": f"#/components/messages/{name}"}},
        **({"parameters": parameters} if parameters else {}),
    }


def _message(payload: dict[str, str], schema: dict[str, Any], *, from_intake: bool) -> dict[str, Any]:
    return {
        "name": _last(payload),
        "summary": schema.get("description", "").partition("\n")[0],
        "contentType": "application/json",
        "headers": {"$ref": f"#/components/schemas/{'IntakeHeaders' if from_intake else 'Headers'}"},
        "payload": payload,
    }


def _headers(names: Sequence[str]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}


def _last(reference: dict[str, str]) -> str:
    """Returns the name of the component that a reference points to."""
    return reference["$ref"].rpartition("/")[2]
