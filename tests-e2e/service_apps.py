"""Applications of the services without their loops, databases and bus, for tests of their routes."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from paybill_embedded.users import SERVICES
from paybill_runtime.app import Running, Service
from paybill_runtime.testing.signing import make_test_identity

PUBLIC = {
    *("/healthz", "/readyz", "/openapi.json", "/asyncapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"),
    *("/.well-known/license-keys.json", "/.well-known/license-revocations", "/webhooks/{provider}"),
}
"""Paths of the routes that need no API key."""


def running_service(name: str, folder: Path, keys: Sequence[Mapping[str, Any]] = ()) -> Running:
    """Returns a service that has not started. keys: those of its file, as they are stored there."""
    service: Service = import_module(f"paybill_{name.replace('-', '_')}.app").service()
    for each in (*SERVICES, "operator"):
        make_test_identity(folder / "identities", each)
    (folder / "keys.json").write_text(json.dumps({"keys": keys}))
    (folder / "secret").write_text("secret")
    settings: dict[str, Any] = {
        "database_url": "postgresql://nobody@127.0.0.1:1/nothing",
        "nats_url": "nats://127.0.0.1:1",
        "nats_user": name,
        "nats_password_file": folder / "secret",
        "api_keys_file": folder / "keys.json",
        "identity_dir": folder / "identities",
        "secrets_dir": folder / "secrets",
    }
    if name == "provisioner":
        settings |= {"local_database_url": settings["database_url"], "local_dir": folder}
    if name == "billing":
        settings |= {"default_provider": "manual"}
    return Running(service, service.settings(**settings))


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """Returns method and path of each route: those of the document, and those that it does not list."""
    found = {(method.upper(), path) for path, item in app.openapi()["paths"].items() for method in item}
    for route in app.routes:
        for method in getattr(route, "methods", None) or ():
            if isinstance(route, APIRoute) or method == "GET":
                found.add((method, str(getattr(route, "path", ""))))
    return found
