"""Checks of a module's imports that import-linter cannot express: allow-lists, and parts of the standard library."""

import ast
from collections.abc import Iterator
from pathlib import Path

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
NETWORK_PARENTS = frozenset({"http", "urllib"})
"""Packages whose network modules are attributes once any module imported them: names are imported `from` them."""
NETWORK_USERS = {
    "paybill_embedded.nats": "waits until the started server accepts connections",
    "paybill_embedded.ports": "finds free ports",
    "paybill_runtime.errors": "the error of a failed name resolution",
    "paybill_runtime.http.server": "binds the socket that the service listens on",
    "paybill_stack.ports": "finds free ports",
    "paybill_stripe_fake.__main__": "binds the socket that the fake listens on",
}
"""Modules outside effects that use a network module, and the reason."""
DYNAMIC_MODULES = ("importlib", "pkgutil", "runpy")
STATIC_PARTS = ("importlib.metadata.version", "importlib.resources.files", "importlib.util.find_spec")
"""Parts of the dynamic modules that import nothing."""
DYNAMIC_USERS = {
    "paybill_bench.figures": "imports the chosen benchmark",
    "paybill_billing.providers.registry": "loads providers that other packages install",
    "paybill_cli.main": "imports the chosen command",
    "paybill_contracts.schemas": "imports every module with events",
    "paybill_runtime.app": "imports the module with the events of the service",
    "paybill_runtime.database.alembic_runner": "finds the folder of the migrations",
    "paybill_runtime.database.migrate": "imports Alembic only if there is something to migrate",
    "paybill_runtime.telemetry": "imports the exporters only if there is an endpoint",
}
"""Modules that import by a name that is known at run time or later than at the start, and the reason."""
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


def dotted(path: Path) -> str:
    """Returns the name of a module below a folder `src`."""
    parts = path.with_suffix("").parts
    parts = parts[parts.index("src") + 1 :]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_domain(module: str) -> bool:
    """Returns True for the modules of a domain and of the provider port, which must be pure."""
    parts = module.split(".")
    return "domain" in parts or parts[1:3] == ["providers", "port"]


def may_use_network(module: str) -> bool:
    """Returns True for effects, drivers, provider implementations and the exceptions."""
    parts = module.split(".")
    return module in NETWORK_USERS or bool({"effects", "drivers"} & set(parts)) or parts[1:3] == ["providers", "stripe"]


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
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import)]
    whole = {alias.name for node in statements for alias in node.names}
    return [
        name
        for name in imports(source)
        if _is_part(name, NETWORK_MODULES) or (name in whole and name.partition(".")[0] in NETWORK_PARENTS)
    ]


def dynamic(module: str, source: str) -> list[str]:
    """Returns the imports by name at run time, which no import contract sees."""
    if module in DYNAMIC_USERS:
        return []
    names = (ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name | ast.Attribute))
    found = [name for name in names if name.rpartition(".")[2] == "__import__"]
    return found + [name for name in imports(source) if _is_part(name, DYNAMIC_MODULES) and name not in STATIC_PARTS]


def _is_part(name: str, modules: tuple[str, ...]) -> bool:
    return f"{name}.".startswith(tuple(f"{each}." for each in modules))


def _is_pure(module: str, name: str) -> bool:
    """Returns True when a domain module may import `name`. The order of contexts is a contract of import-linter."""
    service = module.partition(".")[0]
    return name.partition(".")[0] in PURE_LIBRARIES or (name.startswith(f"{service}.") and is_domain(name))
