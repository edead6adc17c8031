"""Checks of a module's imports that import-linter cannot express: allow-lists, and parts of the standard library."""

import ast
from collections.abc import Iterator

PURE_LIBRARIES = frozenset(
    {
        "abc",
        "bisect",
        "calendar",
        "collections",
        "contextlib",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "functools",
        "graphlib",
        "hashlib",
        "heapq",
        "itertools",
        "math",
        "operator",
        "paybill_contracts",
        "paybill_definitions",
        "paybill_licence",
        "pydantic",
        "re",
        "string",
        "types",
        "typing",
    }
)
"""Libraries that a domain may import: they do no I/O, read no clock and make no ids."""
NETWORK_MODULES = (
    "ftplib",
    "http.client",
    "http.server",
    "imaplib",
    "poplib",
    "smtplib",
    "socket",
    "socketserver",
    "ssl",
    "telnetlib",
    "urllib.request",
    "urllib3",
    "xmlrpc",
)
IMPURE_CALLS = frozenset({"__import__", "breakpoint", "eval", "exec", "input", "open", "print"})
CLOCK_CALLS = frozenset({"now", "today", "utcnow"})


def imports(source: str) -> Iterator[str]:
    """Yields the dotted names that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_domain(module: str) -> bool:
    """Returns True for the modules of a domain and of the provider port, which must be pure."""
    parts = module.split(".")
    return "domain" in parts or parts[1:3] == ["providers", "port"]


def may_use_network(module: str) -> bool:
    """Returns True for effects, drivers and provider implementations."""
    parts = module.split(".")
    return bool({"effects", "drivers"} & set(parts)) or parts[1:3] == ["providers", "stripe"]


def impure(module: str, source: str) -> list[str]:
    """Returns what a domain module imports or calls beyond the allow-list; nothing for other modules."""
    if not is_domain(module):
        return []
    found = [name for name in imports(source) if not _is_pure(module, name)]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name) if name in IMPURE_CALLS:
                    found.append(f"{name}()")
                case ast.Attribute(value=ast.Name(id="datetime" | "date" as name), attr=attribute):
                    found += [f"{name}.{attribute}()"] if attribute in CLOCK_CALLS else []
    return found


def network(module: str, source: str) -> list[str]:
    """Returns the network modules of the standard library that a module imports where none are allowed."""
    if may_use_network(module):
        return []
    return [name for name in imports(source) if f"{name}.".startswith(tuple(f"{each}." for each in NETWORK_MODULES))]


def _is_pure(module: str, name: str) -> bool:
    """Returns True when a domain module may import `name`. The order of contexts is a contract of import-linter."""
    service = module.partition(".")[0]
    return name.partition(".")[0] in PURE_LIBRARIES or (name.startswith(f"{service}.") and is_domain(name))
