"""The table of metrics in docs/telemetry.md lists what the code measures."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DECLARATIONS = {"create_counter", "create_histogram", "create_observable_gauge", "StateCount", "FactDuration"}
OF_LIBRARIES = {"http.client.request.duration"}
"""Metrics that an instrumentation creates."""


def documented_metrics() -> set[str]:
    """Returns the names of the table."""
    section = (ROOT / "docs/telemetry.md").read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([a-z0-9_.]+)` \|", section, re.MULTILINE))


def declared_metrics() -> Iterator[str]:
    """Yields the names of the metrics that the runtime and the services create."""
    for path in [*ROOT.glob("libs/runtime/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id=function) | ast.Attribute(attr=function), args=[ast.Constant(value=str(name)), *_]
                ) if function in DECLARATIONS:
                    yield name


def test_every_metric_is_documented_and_every_documented_one_exists():
    assert documented_metrics() == set(declared_metrics()) | OF_LIBRARIES
