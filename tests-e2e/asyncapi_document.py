"""Generates the AsyncAPI document of all services: `python tests-e2e/asyncapi_document.py` writes it.

It merges the documents that the services serve at `/asyncapi.json`; an operation is named `<service>.receive.<event>`
or `<service>.send.<event>`.
"""

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paybill_runtime.app import Service
from paybill_runtime.messaging import asyncapi

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "docs/asyncapi.json"


def services() -> list[Service]:
    """Returns the declarations of all services."""
    names = sorted(path.name for path in (ROOT / "services").iterdir() if path.is_dir())
    return [importlib.import_module(f"paybill_{name.replace('-', '_')}.app").service() for name in names]


def merged(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns one document of those of the services, by name."""
    first = next(iter(documents.values()))
    return {
        **first,
        "info": {**first["info"], "title": "Paybill", "description": "Events that the services receive and send."},
        "channels": _union(document["channels"] for document in documents.values()),
        "operations": {
            f"{service}.{key}": operation
            for service, document in documents.items()
            for key, operation in document["operations"].items()
        },
        "components": {
            kind: _union(document["components"][kind] for document in documents.values())
            for kind in first["components"]
        },
    }


def _union(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns all entries. Raises ValueError when two services describe one name differently."""
    found: dict[str, Any] = {}
    for part in parts:
        different = [name for name, entry in part.items() if found.setdefault(name, entry) != entry]
        if different:
            raise ValueError(f"described in two ways: {', '.join(different)}")
    return found


def text() -> str:
    """Returns the merged document as it is committed."""
    documents = {
        each.name: asyncapi.document(each.name, each.subscriptions, of_agents=each.accepts_agents)
        for each in services()
    }
    return json.dumps(merged(documents), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    COMMITTED.write_text(text(), encoding="utf-8")
