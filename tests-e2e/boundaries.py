"""Checks of a module's imports and SQL that import-linter cannot express."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
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
        "hmac",
        "itertools",
        "math",
        "operator",
        "paybill_contracts",
        "paybill_definitions",
        "paybill_licence",
        "pydantic",
        "re",
        "statistics",
        "string",
        "types",
        "typing",
        "unicodedata",
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
    "paybill_cli.command": "imports the chosen command",
    "paybill_contracts.schemas": "imports every module with events",
    "paybill_runtime.app": "imports the module with the events of the service",
    "paybill_runtime.database.alembic_runner": "finds the folder of the migrations",
    "paybill_runtime.database.migrate": "imports Alembic only if there is something to migrate",
    "paybill_runtime.replay.__main__": "imports the tables of the services that it replays",
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


CHASSIS_OWNERS = {
    "chassis.api_key": "paybill_runtime.messaging.api_key_copies",
    "chassis.data_key": "paybill_runtime.security.data_keys",
    "chassis.idempotency": "paybill_runtime.decisions.context",
    "chassis.job": "paybill_runtime.decisions.job_rows",
    "chassis.inbox": "paybill_runtime.messaging.inbox",
    "chassis.key_recipient": "paybill_runtime.messaging.key_recipients",
    "chassis.lease": "paybill_runtime.database.leases",
    "chassis.member": "paybill_runtime.database.leases",
    "chassis.outbox": "paybill_runtime.decisions.outbox",
    "chassis.parked": "paybill_runtime.messaging.retry_queue",
    "chassis.position": "paybill_runtime.messaging.inbox",
    "chassis.publication": "paybill_runtime.decisions.outbox",
    "chassis.publisher_minute": "paybill_runtime.messaging.publisher_limits",
    "chassis.quarantine": "paybill_runtime.decisions.refused_messages",
    "chassis.state_format": "paybill_runtime.replay.formats",
    "chassis.write_probe": "paybill_runtime.messaging.write_probes",
}
"""Tables of the runtime, and the one module that writes each. Only modules of the runtime may read them."""
NAMED_TABLE_WRITERS = {
    "paybill_agent_gateway.statements": "changes a tenant's rows of the customer's product, in no table of ours",
    "paybill_bench.grown_stack": "copies the states of a tenant, in databases that exist for one benchmark",
    "paybill_provisioner.drivers.rebuilding": "copies a tenant's rows of the customer's product, in no table of ours",
    "paybill_provisioner.drivers.namespaces": "deletes a tenant's rows of the customer's product, in no table of ours",
    "paybill_runtime.decisions.store": "writes the states that a decision changed",
    "paybill_runtime.replay.verify": "writes all states again from the log, while the service is stopped",
    "paybill_runtime.testing.databases": "restores the rows of the migrations, for the next test",
}
"""Modules that write a table whose name is a value, and the reason."""
_STATEMENT = re.compile(r"\b(select|insert into|update|delete from|merge into|truncate)\b", re.IGNORECASE)
_WRITE = re.compile(
    r"\b(?:insert into|update|delete from|merge into|truncate)\s+(?:only\s+)?([a-z_.]+|\{)", re.IGNORECASE
)
_READ = re.compile(r"(?<!delete )\b(?:from|join)\s+(?:only\s+)?([a-z_.]+)", re.IGNORECASE)


def table_owners(sources: Mapping[str, str]) -> dict[str, str]:
    """Returns the module that owns each table: it defines the table of a service, or writes the table of the runtime.

    The name of a service's table starts with the package of the service: `paybill_tenant.tenants`.
    """
    owners = dict(CHASSIS_OWNERS)
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id="__tablename__")], value=ast.Constant(value=str(name)))
                    | ast.Call(func=ast.Name(id="Table"), args=[ast.Constant(value=str(name)), *_])
                ):
                    owners[f"{module.partition('.')[0]}.{name}"] = module
    return owners


def foreign_sql(module: str, source: str, owners: Mapping[str, str], layers: Sequence[str]) -> list[str]:
    """Returns the tables that the SQL of a module writes or reads, but whose owner is another module.

    A query may read the tables of lower contexts together with one of its own. layers: of the contexts, highest first.
    """

    def owned(tables: list[str]) -> dict[str, str]:
        names = {table: table if table in owners else f"{module.partition('.')[0]}.{table}" for table in tables}
        return {table: owners[name] for table, name in names.items() if name in owners}

    found = [name for name in imports(source) if re.fullmatch(r"sql(alchemy|model)\b.*\.(insert|update|delete)", name)]
    for text in filter(_STATEMENT.search, _texts(source)):
        written, read = _WRITE.findall(text), owned(_READ.findall(text))
        found += [f"writes {table}" for table, owner in owned(written).items() if owner != module]
        found += ["writes a table by its name"] if "{" in written and module not in NAMED_TABLE_WRITERS else []
        combines = module in {**owned(written), **read}.values()
        for table, owner in read.items():
            if table in CHASSIS_OWNERS:
                allowed = module.startswith("paybill_runtime.")
            else:
                allowed = owner == module or (combines and _level(module, layers) < _level(owner, layers))
            found += [] if allowed else [f"reads {table}"]
    return found


def _texts(source: str) -> Iterator[str]:
    """Yields the strings of a module; a value in an f-string is `{}`."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def _level(module: str, layers: Sequence[str]) -> int:
    """Returns the index of the layer that holds the context of a module."""
    context = module.partition(".")[2]
    return next(
        level
        for level, layer in enumerate(layers)
        for name in layer.split(" | ")
        if f"{context}.".startswith(f"{name}.")
    )
