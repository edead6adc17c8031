"""Generates the list of use cases in each service's README: `python tests-e2e/use_cases.py` writes them.

The lists come from the routes of the service, its subscriptions, its effects, the events of its aggregates, and the
routes that the commands of `paybill` call.
"""

import ast
import importlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from paybill_cli.tree import TREE, Branch, Leaf
from paybill_contracts.operations import service_event
from paybill_runtime.app import Service

ROOT = Path(__file__).resolve().parents[1]
CLI = ROOT / "cli/src"
BEGIN, END = "<!-- use cases: written by tests-e2e/use_cases.py -->", "<!-- end of use cases -->"
READS = {"get", "get_or_none", "list_rows"}
"""Functions of the client that send GET; all others send POST."""
CLIENT = "paybill_cli.client"
"""Shared by all commands: its own requests are no use case of a command."""

Request = tuple[str, str]
"""Method and path, with `{}` for every parameter."""


@dataclass(frozen=True, slots=True)
class Module:
    """Definitions and imports of a module of the CLI."""

    definitions: Mapping[str, ast.AST]
    imports: Mapping[str, tuple[str, str]]
    constants: Mapping[str, str]


def services() -> list[str]:
    """Returns the names of all services."""
    return sorted(path.name for path in (ROOT / "services").iterdir() if path.is_dir())


def readme(name: str) -> Path:
    """Returns the README of a service."""
    return ROOT / "services" / name / "README.md"


def use_cases(name: str) -> str:
    """Returns the generated section of a service's README."""
    service: Service = importlib.import_module(f"paybill_{name.replace('-', '_')}.app").service()
    lines = [BEGIN, "", "| command | HTTP route | use case |", "|---|---|---|"]
    lines += [f"| {commands} | `{method} {path}` | {summary} |" for commands, method, path, summary in routes(service)]
    lines += ["", "| event in | handler |", "|---|---|"]
    handlers = service.subscriptions.fact_handlers | service.subscriptions.intake_handlers
    lines += [f"| `{type_}` | `{handler.handle.__name__.strip('_')}` |" for type_, handler in sorted(handlers.items())]
    if service.jobs.effects:
        lines += ["", "| event that intends an effect | effect |", "|---|---|"]
        lines += [f"| `{type_}` | `{effect.name}` |" for type_, effect in sorted(service.jobs.effects.items())]
    lines += ["", "| aggregate | events out |", "|---|---|"]
    for stored in sorted(service.states, key=lambda each: each.kind):
        lines.append(f"| `{stored.kind}` | {', '.join(f'`{type_}`' for type_ in events(name, stored.evolve))} |")
    return "\n".join([*lines, "", END])


def events(name: str, evolve: Any) -> list[str]:
    """Returns the types of the closed union that an aggregate of a service is folded from."""
    hint = [each for argument, each in typing.get_type_hints(evolve).items() if argument != "return"][-1]
    kinds = typing.get_args(hint) or (hint,)
    return sorted((each if hasattr(each, "TYPE") else service_event(name, each)).TYPE for each in kinds)


def routes(service: Service) -> Iterator[tuple[str, str, str, str]]:
    """Yields commands, method, path and summary of each route, by path."""
    context: Any = SimpleNamespace(database=None, fast_routes={}, bodies_refused={}, settings=None, secrets=None)
    app = FastAPI()
    app.include_router(service.router(context))
    operations = {
        (method.upper(), path): operation.get("description", "").partition("\n")[0].replace("|", "\\|")
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
    }
    callers: dict[Request, list[str]] = {}
    for command, requests in commands():
        for request in requests:
            route = _route(operations, request)
            if route is not None:
                callers.setdefault(route, []).append(f"`paybill {command}`")
    for (method, path), summary in sorted(operations.items(), key=lambda each: (each[0][1], each[0][0])):
        yield ", ".join(callers.get((method, path), [])), method, path, summary


def commands() -> Iterator[tuple[str, set[Request]]]:
    """Yields every command with the requests that its functions send."""

    def walk(name: str, node: Branch | Leaf) -> Iterator[tuple[str, set[Request]]]:
        if isinstance(node, Branch):
            for word, child in node.commands.items():
                yield from walk(f"{name} {word}".strip(), child)
        else:
            module, _, function = node.target.partition(":")
            yield name, _requests(module, function)

    yield from walk("", TREE)


def _route(operations: Iterable[Request], request: Request) -> Request | None:
    """Returns the route of a request: the one with the most literal parts in common."""

    def literals(route: Request) -> int:
        pairs = list(zip(route[1].split("/"), request[1].split("/"), strict=True))
        if any(mine != theirs and not mine.startswith("{") for mine, theirs in pairs):
            return -1
        return sum(mine == theirs for mine, theirs in pairs)

    same = [each for each in operations if each[0] == request[0] and each[1].count("/") == request[1].count("/")]
    best = max(same, key=literals, default=None)
    return best if best is not None and literals(best) >= 0 else None


@cache
def _module(name: str) -> Module:
    path = CLI / (name.replace(".", "/") + ".py")
    tree = ast.parse((path if path.exists() else CLI / name.replace(".", "/") / "__init__.py").read_text())
    imports, constants = {}, {}
    for node in tree.body:
        match node:
            case ast.ImportFrom(module=str(source)) if source.startswith("paybill_cli"):
                imports |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Constant(value=str(text))):
                constants[target] = text
    definitions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return Module(definitions, imports, constants)


def _find(module: str, name: str) -> tuple[str, ast.AST] | None:
    """Returns the definition of a name that a module of the CLI uses."""
    known = _module(module)
    if name in known.definitions:
        return module, known.definitions[name]
    return _find(*known.imports[name]) if name in known.imports else None


def _requests(module: str, function: str) -> set[Request]:
    """Returns the requests of a function and of all functions and classes of the CLI that it uses."""
    found: set[Request] = set()
    done, queue = set(), [(module, function)]
    while queue:
        here, name = queue.pop()
        definition = _find(here, name)
        if definition is None or definition in done or definition[0].startswith(CLIENT):
            continue
        done.add(definition)
        here, node = definition
        paths = _assigned(here, node)
        local = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
        for each in ast.walk(node):
            if isinstance(each, ast.Name) and each.id not in local:
                queue.append((here, each.id))
            elif isinstance(each, ast.Call):
                texts = [_path(here, argument, paths) for argument in each.args]
                called = each.func.attr if isinstance(each.func, ast.Attribute) else getattr(each.func, "id", "")
                method = "GET" if called in READS else "POST"
                found |= {(method, text.partition("?")[0]) for text in texts if text.startswith("/v1/")}
    return found


def _assigned(module: str, node: ast.AST) -> dict[str, str]:
    """Returns the local variables that hold a path."""
    paths = dict(_module(module).constants)
    for each in ast.walk(node):
        match each:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                pairs = list(zip(names, values, strict=True))
            case ast.Assign(targets=[target], value=value):
                pairs = [(target, value)]
            case _:
                continue
        for target, value in pairs:
            text = _path(module, value, paths)
            if isinstance(target, ast.Name) and text.startswith("/v1/"):
                paths[target.id] = text
    return paths


def _path(module: str, node: ast.AST, paths: Mapping[str, str]) -> str:
    """Returns the path that an expression makes, with `{}` for what is unknown; empty when it makes none."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name) if name in paths:
            return paths[name]
        case ast.JoinedStr(values=parts):
            return "".join(
                _path(module, part.value, paths) or "{}"
                if isinstance(part, ast.FormattedValue)
                else _path(module, part, paths)
                for part in parts
            )
        case ast.Call(func=ast.Name(id=name)):
            definition = _find(module, name)
            if definition is not None:
                here, function = definition
                for each in ast.walk(function):
                    if isinstance(each, ast.Return) and each.value is not None:
                        text = _path(here, each.value, {})
                        return text if text.startswith("/v1/") else ""
    return ""


def current(name: str) -> str:
    """Returns the section that the README has now."""
    text = readme(name).read_text()
    return BEGIN + text.partition(BEGIN)[2].partition(END)[0] + END


if __name__ == "__main__":
    for each in services():
        text = readme(each).read_text()
        readme(each).write_text(text.replace(current(each), use_cases(each)))
