"""The OpenAPI documents of the services name every problem that their routes raise."""

import ast
import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from paybill_runtime.app import Service
from paybill_runtime.http.documented_problems import MEDIA_TYPE, complete
from paybill_runtime.http.router import LazyRoute
from use_cases import ROOT, services


def documented(name: str) -> set[tuple[int, str]]:
    """Returns statuses and codes in the document of a service."""
    service: Service = importlib.import_module(f"paybill_{name.replace('-', '_')}.app").service()
    context: Any = SimpleNamespace(database=None, fast_routes={}, bodies_refused={}, settings=None, secrets=None)
    routes = service.router(context).routes
    assert {type(route) for route in routes} == {LazyRoute}  # an included router hides its routes
    document = complete(FastAPI(routes=routes).openapi(), name)
    found = set()
    for response in document["components"]["responses"].values():
        known = response["content"][MEDIA_TYPE]["schema"]["allOf"][1]["properties"]
        found |= {(known["status"]["const"], code) for code in known.get("code", {}).get("enum", ())}
    return found


def raised(name: str) -> Iterator[tuple[str, int, str]]:
    """Yields place, status and code of each `Problem` that a service creates with a literal code."""
    for path in sorted((ROOT / "services" / name / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
                status, code = node.args[:2]
                if isinstance(status, ast.Constant) and isinstance(code, ast.Constant):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", int(str(status.value)), str(code.value)


@pytest.mark.parametrize("name", services())
def test_every_problem_of_a_route_is_documented(name: str) -> None:
    known = documented(name)

    assert (404, "no_such_route") in known
    assert [each for each in raised(name) if each[1:] not in known] == []
