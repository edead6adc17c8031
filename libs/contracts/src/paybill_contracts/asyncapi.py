"""AsyncAPI 3 document of all events: subjects, publishers and payloads (https://www.asyncapi.com/docs/reference)."""

from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from paybill_contracts.envelope import EVENTS_ROOT, INTAKE_ROOT
from paybill_contracts.event import PARTITIONS, Event
from paybill_contracts.schemas import contexts, name_of, untitled

_CLOUDEVENTS_HEADERS = ("ce-id", "ce-type", "ce-source", "ce-time", "ce-subject", "ce-dataschema", "traceparent")
_PAYBILL_HEADERS = ("pb-aggregate", "pb-revision", "pb-cause", "pb-correlation", "pb-actor")


def document(events: Sequence[type[Event]]) -> dict[str, Any]:
    """Returns the document, ready for JSON."""
    services = contexts(events)
    names, shared = models_json_schema(
        [(event, "validation") for event in events], ref_template="#/components/schemas/{model}"
    )
    schemas = untitled(shared.get("$defs", {}))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Paybill",
            "version": "1",
            "description": "Events of the stream EVENTS, and events that internal services submit through INTAKE.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {name_of(event): _channel(event, from_service=event.OWNER in services) for event in events},
        "operations": {
            name_of(event).replace(".", "_"): _operation(event, from_service=event.OWNER in services)
            for event in events
        },
        "components": {
            "schemas": schemas
            | {
                "Headers": _headers((*_CLOUDEVENTS_HEADERS, *_PAYBILL_HEADERS)),
                "IntakeHeaders": _headers(_CLOUDEVENTS_HEADERS),
            },
            "messages": {
                name_of(event): {
                    "name": event.__name__,
                    "summary": (event.__doc__ or "").partition("\n")[0],
                    "contentType": "application/json",
                    "headers": {
                        "$ref": f"#/components/schemas/{'Headers' if event.OWNER in services else 'IntakeHeaders'}"
                    },
                    "payload": names[event, "validation"],
                }
                for event in events
            },
        },
    }


def _channel(event: type[Event], *, from_service: bool) -> dict[str, Any]:
    partitions = [str(number) for number in range(PARTITIONS)]
    if from_service:
        address = f"{EVENTS_ROOT}.{{partition}}.{name_of(event)}"
        parameters = {
            "partition": {"enum": partitions, "description": "First byte of SHA-256 of the tenant id, mod 16."}
        }
    else:
        address = f"{INTAKE_ROOT}.{{publisher}}.{name_of(event)}"
        parameters = {"publisher": {"description": "The publisher; its credentials allow this name only."}}
    return {
        "address": address,
        "parameters": parameters,
        "messages": {"event": {"$ref": f"#/components/messages/{name_of(event)}"}},
    }


def _operation(event: type[Event], *, from_service: bool) -> dict[str, Any]:
    return {
        "action": "send" if from_service else "receive",
        "channel": {"$ref": f"#/channels/{name_of(event)}"},
        "tags": [{"name": event.OWNER}],
    }


def _headers(names: Sequence[str]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}
