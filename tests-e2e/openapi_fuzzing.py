"""Generated requests to a service, by schemathesis: its phases coverage, fuzzing and stateful, with a bound on each."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
AWAY = ("provider_away", "provider_refused", "no_catalogue")
"""Codes of 502 and 503 that are no fault of the service: another system, or what nobody has published yet."""


@dataclass
class Findings:
    """Requests sent, by phase; statuses; and failures, each with the shortest request that shows it."""

    requests: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)


def fuzz(document: dict[str, Any], url: str, key: str, seed: int, requests: int) -> Findings:
    """Sends about this number of requests to the routes of a document, a third of them in each phase."""
    findings = Findings()
    routes = [
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in {"get", "post", "put", "delete", "patch"}
    ]
    random.Random(seed).shuffle(routes)
    for phase, share in (("coverage", requests // 3), ("fuzzing", requests // 3), ("stateful", None)):
        end = sum(findings.requests.values()) + share if share is not None else requests
        if phase == "stateful":
            _run(document, url, key, seed, phase, None, end, findings)
            continue
        for route in routes:
            if sum(findings.requests.values()) >= end:
                break
            _run(document, url, key, seed, phase, route, end, findings)
    return findings


def _run(
    document: dict[str, Any],
    url: str,
    key: str,
    seed: int,
    phase: str,
    route: tuple[str, str] | None,
    end: int,
    findings: Findings,
) -> None:
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "base-url": url,
            "headers": {"Authorization": f"Bearer {key}"},
            "request-timeout": 30,
            "continue-on-failure": True,
            "phases": {each: {"enabled": each == phase} for each in ("examples", "coverage", "fuzzing", "stateful")},
            "generation": {"max-examples": 20, "no-shrink": True, "database": "none"},
            "checks": {
                "enabled": False,
                **{name: {"enabled": True} for name in CHECKS},
                "not_a_server_error": {"enabled": True, "expected-statuses": ["2xx", "3xx", "4xx", 502, 503]},
            },
        }
    )
    schema = schemathesis.openapi.from_dict(document, config=config)
    if route is not None:
        schema = schema.include(method=route[0], path=route[1])
    stream = from_schema(schema).execute()
    for event in stream:
        if isinstance(event, events.ScenarioFinished):
            _add(event, phase, findings)
            if sum(findings.requests.values()) >= end:
                stream.stop()
        elif isinstance(event, events.NonFatalError | events.FatalError):
            findings.failures[f"error {event}"] = str(getattr(event, "exception", event))


def _add(event: events.ScenarioFinished, phase: str, findings: Findings) -> None:
    recorder = event.recorder
    for case_id, interaction in recorder.interactions.items():
        findings.requests[phase] += 1
        response = interaction.response
        if response is None:
            continue
        findings.statuses[response.status_code] += 1
        if response.status_code >= 500 and response.json().get("code") not in AWAY:
            findings.failures[f"{recorder.label} {response.status_code} {response.text[:200]}"] = response.text
        for check in recorder.checks.get(case_id, []):
            if check.failure_info is not None:
                failure = check.failure_info.failure
                name = f"{recorder.label} {check.name}: {failure.title} {response.status_code} {failure.message[:300]}"
                findings.failures.setdefault(name, check.failure_info.code_sample)
