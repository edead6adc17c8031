"""Every text in a request is plain text, an address, an identifier or an enumeration, or an exception by name."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paybill_contracts.inputs import Email, PlainText
from paybill_embedded.users import SERVICES
from paybill_runtime.http.documented_app import openapi_of
from pydantic import TypeAdapter
from service_apps import running_service

Schema = Mapping[str, Any]

PLAIN = TypeAdapter(PlainText).json_schema()["pattern"]
EMAIL = TypeAdapter(Email).json_schema()["format"]
FORMATS = {EMAIL, "date-time", "uuid"}
EXCEPTIONS = {
    "body (application/yaml)": "a file; the fields in it have types of their own",
    "body.files{}": "files of a bundle, which have rules of their own",
    "body.of": "opaque name of an item, of which only the digest is kept",
    "query.after": "place in a list, which the service made",
    "body.subject": "of a fact in the log, which somebody else may have written",
    "header.idempotency-key": "visible ASCII, which the route checks",
    "header.If-None-Match": "compared with a digest, and not kept",
    "query.kind": "compared with the kinds of jobs, and not kept",
    "path.cell": "compared with the ids of cells, and not kept",
}
"""Places of texts of another kind, and the reasons."""
PROVIDER_IDS = {"path.customer", "path.target", "query.after", "query.object", "body.customer"}


def texts(document: Schema, schema: Schema, place: str) -> Iterator[tuple[str, Schema]]:
    """Yields place and schema of each text in a schema; recursive schemas are not used in requests."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for each in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(each, ()):
            yield from texts(document, part, place)
    for name, part in schema.get("properties", {}).items():
        yield from texts(document, part, f"{place}.{name}")
    for each, suffix in (("items", "[]"), ("additionalProperties", "{}"), ("propertyNames", "{}")):
        if isinstance(schema.get(each), dict):
            yield from texts(document, schema[each], place + suffix)
    if schema.get("type") == "string":
        yield place, schema


def request_texts(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Yields route, place and schema of each text that a service accepts."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            found = [(f"{each['in']}.{each['name']}", each["schema"]) for each in operation.get("parameters", ())]
            for media, body in operation.get("requestBody", {}).get("content", {}).items():
                found.append(("body" if media == "application/json" else f"body ({media})", body["schema"]))
            for place, schema in found:
                for where, text in texts(document, schema, place):
                    yield f"{method} {path}", where, text


def is_typed(schema: Schema) -> bool:
    """Returns whether a text is an enumeration, has a format, or a pattern without spaces and hidden characters."""
    if {"enum", "const"} & schema.keys() or schema.get("format") in FORMATS:
        return True
    pattern = schema.get("pattern", "")
    return all(re.search(pattern, f"a{each}a") is None for each in ("\u202e", "\n", "\x9b"))


def test_every_text_of_a_request_has_a_type(tmp_path: Path) -> None:
    plain, untyped = Counter[str](), {}
    for name in SERVICES:
        for route, place, schema in request_texts(openapi_of(running_service(name, tmp_path).app(), name)):
            if schema.get("pattern") == PLAIN:
                plain[name] += 1
            elif not is_typed(schema):
                untyped.setdefault(place, (name, route, schema))

    assert {place: found for place, found in untyped.items() if place not in EXCEPTIONS} == {}
    assert EXCEPTIONS.keys() - untyped.keys() == set()
    assert all(plain[name] >= 2 for name in SERVICES)


def test_no_request_names_an_address_that_a_service_calls(tmp_path: Path) -> None:
    """Ids of a provider may have the form of an address; they are quoted in its paths."""
    found = {
        place
        for name in SERVICES
        for _, place, schema in request_texts(openapi_of(running_service(name, tmp_path).app(), name))
        if schema.get("pattern") not in {None, PLAIN} and re.search(schema["pattern"], "http://169.254.169.254/x")
    }

    assert found == PROVIDER_IDS | {"body.of", "body.subject"}
