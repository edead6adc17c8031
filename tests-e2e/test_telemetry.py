"""Telemetry of a whole demo run: one graph for each tenant, the documented metrics, no personal data."""

import os
import re
import subprocess
import sys
from collections import defaultdict

import pytest
from otlp_receiver import Telemetry, receiving
from paybill_stack.layout import SERVICES
from test_metrics_table import documented_metrics

WITHIN_S = 150
ID = re.compile(r"[0-9a-f]{12}|[0-9]{3}|\b(ten|sub|cus|evt|in|env|pi|ch|cs)_|(?=[A-Za-z]*[0-9])[A-Za-z0-9]{10}")
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[a-z]{2,}")
ADDRESSES = {"server.address", "server.port"}
"""Attributes of a metric that name a provider's server."""
MAX_NAMES = 200
"""About 45 of each service."""
MAX_SERIES = 100


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory):
    """Runs `paybill demo` with a collector; returns what that received."""
    with receiving() as received:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.url, "OTEL_METRIC_EXPORT_INTERVAL": "1000"}
        environment |= {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
        subprocess.run(
            [sys.executable, "-m", "paybill_cli", "demo"],
            env=os.environ | environment | {"TMPDIR": str(tmp_path_factory.mktemp("demo"))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=WITHIN_S,
            check=True,
        )
    return received


def trace_ids_of_tenants(telemetry: Telemetry) -> dict[str, set[str]]:
    """Returns the traces with spans of each tenant that signed up."""
    trace_ids: dict[str, set[str]] = defaultdict(set)
    for span in telemetry.spans:
        trace_ids[span.attributes.get("paybill.tenant", "")].add(span.trace)
    requested = {span.attributes["paybill.tenant"] for span in telemetry.spans if is_signup(span)}
    return {tenant: found for tenant, found in trace_ids.items() if tenant in requested}


def is_signup(span) -> bool:
    return span.name == "publish tenant.tenant_requested"


def reachable(telemetry: Telemetry, start: str) -> set[str]:
    """Returns the traces that links connect with a trace, in either direction."""
    neighbours: dict[str, set[str]] = defaultdict(set)
    for span in telemetry.spans:
        for linked in span.linked:
            neighbours[span.trace].add(linked)
            neighbours[linked].add(span.trace)
    found, pending = {start}, [start]
    while pending:
        new = neighbours[pending.pop()] - found
        found |= new
        pending += new
    return found


@pytest.mark.e2e
def test_each_trace_of_a_tenant_is_in_one_graph_that_begins_with_the_sign_up(telemetry):
    tenants = trace_ids_of_tenants(telemetry)

    assert len(tenants) == 5
    for tenant, trace_ids in tenants.items():
        start = next(
            span for span in telemetry.spans if is_signup(span) and span.attributes["paybill.tenant"] == tenant
        )
        names = {span.name for span in telemetry.spans if span.trace in trace_ids}
        assert trace_ids - reachable(telemetry, start.trace) == set()
        assert {
            "POST /v1/tenants",
            "POST /webhooks/stripe",
            "outbox wait",
            "job open_account/stripe",
            "effect open_account",
            "job sync/stripe",
            "publish billing.subscription_activated",
            "handle billing.subscription_activated",
            "effect build",
            "publish tenant.tenant_activated",
        } <= names


@pytest.mark.e2e
def test_statements_and_calls_are_spans_inside_others_and_never_the_first_of_a_trace(telemetry):
    statements = [span for span in telemetry.spans if span.attributes.get("db.system.name") == "postgresql"]
    calls = [span for span in telemetry.spans if "url.full" in span.attributes]
    parents = {span.id: span for span in telemetry.spans}
    of_tenants = set().union(*trace_ids_of_tenants(telemetry).values())

    assert [span for span in statements + calls if not span.parent] == []
    assert {parents[span.parent].name for span in calls if span.parent in parents} >= {"effect open_account"}
    assert of_tenants & {span.trace for span in statements}
    assert of_tenants & {span.trace for span in calls}
    assert {"SELECT", "CREATE"} <= {span.name for span in statements}
    assert {span.name for span in statements + calls if not re.fullmatch("(CURSOR: )?[A-Z]+", span.name)} == set()
    assert [span for span in statements if "'" in span.attributes["db.query.text"]] == []
    assert {span.attributes["http.response.status_code"] for span in calls} >= {"200"}


@pytest.mark.e2e
def test_no_name_of_a_span_and_no_attribute_of_a_metric_contains_an_id(telemetry):
    names = {span.name for span in telemetry.spans}
    series = [attributes for found in telemetry.metrics.values() for attributes in found]
    values = {value for attributes in series for name, value in attributes if name not in ADDRESSES}

    assert [name for name in names | values if ID.search(name) and not re.fullmatch("[2-5][0-9]{2}", name)] == []
    assert len(names) <= MAX_NAMES
    assert max(map(len, telemetry.metrics.values())) <= MAX_SERIES


@pytest.mark.e2e
def test_every_documented_metric_is_received_and_every_received_one_is_documented(telemetry):
    received = {name for name in telemetry.metrics if name != "http.server.active_requests"}

    assert received == documented_metrics()


@pytest.mark.e2e
def test_no_address_is_received(telemetry):
    assert [found for body in telemetry.bodies for found in ADDRESS.findall(body)] == []


@pytest.mark.e2e
def test_webhooks_resources_and_logs_are_described(telemetry):
    webhooks = [span.attributes for span in telemetry.spans if span.name == "POST /webhooks/stripe"]
    logged = {trace for trace, _ in telemetry.logs}

    assert {(one["paybill.provider"], one["paybill.outcome"]) for one in webhooks} == {("stripe", "accepted")}
    assert {"customer.subscription.created", "invoice.paid"} <= {one["paybill.webhook.type"] for one in webhooks}
    assert any("paybill.tenant" in one for one in webhooks)
    assert {one["service.name"] for one in telemetry.resources} == {f"paybill-{name}" for name in SERVICES}
    assert {one["deployment.environment.name"] for one in telemetry.resources} == {"test"}
    assert all(one["service.version"] for one in telemetry.resources)
    assert {span.trace for span in telemetry.spans if span.name == "POST /v1/tenants"} <= logged
