"""Generated requests to a service, by schemathesis: its phases coverage, fuzzing and stateful, with a bound on each."""

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

CHECKS = (
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
AWAY = frozenset({"provider_away", "provider_refused", "no_catalogue"})
"""Codes of 502 and 503 that are no fault of a service: another system, or what nobody has published yet."""
PHASES = ("coverage", "fuzzing", "stateful")
METHODS = frozenset({"get", "post", "put", "delete", "patch"})
MAX_STEPS = 6
SERVER_ERROR = 500


@dataclass
class Findings:
    """Requests sent, by phase; responses by status; and failures, each with a request that shows it."""

    requests: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, event: events.ScenarioFinished, phase: str) -> None:
        """Adds the requests of a scenario."""
        recorder = event.recorder
        for case_id, interaction in recorder.interactions.items():
            self.requests[phase] += 1
            response = interaction.response
            if response is None:
                self.failures[f"{recorder.label}: no response"] = str(interaction.request)
                continue
            self.statuses[response.status_code] += 1
            if response.status_code >= SERVER_ERROR and response.json().get("code") not in AWAY:
                self.failures[f"{recorder.label}: {response.status_code} {response.text[:300]}"] = str(
                    (interaction.request.method, interaction.request.uri, interaction.request.body)
                )
            for check in recorder.checks.get(case_id, []):
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    name = f"{recorder.label}: {failure.title} ({response.status_code}) {failure.message[:300]}"
                    self.failures.setdefault(name, check.failure_info.code_sample)


@dataclass(frozen=True)
class Fuzzer:
    """A service under test. known: path parameters that exist, of which half of the routes receive those."""

    document: Mapping[str, Any]
    url: str
    key: str
    known: Mapping[str, str]
    seed: int

    def fuzz(self, requests: int) -> Findings:
        """Sends about this number of requests, a third of them in each phase; the routes have a random order."""
        findings = Findings()
        chance = random.Random(self.seed)
        routes = [
            (method.upper(), path) for path, item in self.document["paths"].items() for method in item.keys() & METHODS
        ]
        chance.shuffle(routes)
        share = requests // len(PHASES)
        for phase in PHASES[:2]:
            for method, path in routes:
                if findings.requests[phase] >= share:
                    break
                known = {
                    f"path.{name}": self.known[name]
                    for name in re.findall(r"\{(\w+)\}", path)
                    if name in self.known and chance.random() < 0.5
                }
                self._run(phase, share, findings, known, {"method": method, "path": path})
        self._run("stateful", share, findings, {}, {})
        return findings

    def _run(
        self, phase: str, share: int, findings: Findings, known: Mapping[str, str], selected: Mapping[str, Any]
    ) -> None:
        config = SchemathesisConfig.from_dict(
            {
                "seed": self.seed,
                "base-url": self.url,
                "headers": {"Authorization": f"Bearer {self.key}"},
                "request-timeout": 30,
                "continue-on-failure": True,
                "parameters": dict(known),
                "phases": {
                    **{each: {"enabled": each == phase} for each in ("examples", "coverage", "fuzzing")},
                    "stateful": {"enabled": phase == "stateful", "max-steps": MAX_STEPS},
                },
                "generation": {
                    "max-examples": 20 if phase == "fuzzing" else max(share // MAX_STEPS, 1),
                    "no-shrink": True,
                    "database": "none",
                },
                "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}},
            }
        )
        schema = schemathesis.openapi.from_dict(dict(self.document), config=config)
        stream = from_schema(schema.include(**selected) if selected else schema).execute()
        for event in stream:
            if isinstance(event, events.ScenarioFinished):
                findings.add(event, phase)
                if findings.requests[phase] >= share:
                    stream.stop()
            elif isinstance(event, events.NonFatalError):
                findings.failures[f"{phase} {event.label}"] = event.info.format()
            elif isinstance(event, events.FatalError):
                raise event.exception
