"""Slugs in place of the ids of tenants in what people read, and the time in which services have to answer."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from threading import Thread
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from fault_injection import Bed
from paybill_cli.client.stack import Stack
from paybill_cli.client.tenants import Slugs
from paybill_cli.client.waiting import Deadline
from paybill_cli.commands.why import DEADLINE_S
from paybill_cli.exit_codes import ExitCode

KEY = {"PAYBILL_API_KEY": "key"}


@contextmanager
def tenant_service(requests: list[list[str]]) -> Iterator[str]:
    """Serves `/v1/tenants?id=…` with the slug `t-<last digits>` for each id, and notes the ids of each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ids = parse_qs(urlsplit(self.path).query)["id"]
            requests.append(ids)
            body = json.dumps({"tenants": [{"id": id_, "slug": f"t-{id_[-3:]}"} for id_ in ids], "next": None})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def hung_server() -> Iterator[str]:
    """Accepts connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def ids(amount: int) -> list[str]:
    return [f"ten_{number:032x}" for number in range(amount)]


def test_all_ids_of_a_page_are_fetched_in_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYBILL_API_KEY", "key")
    rows = [{"subject": f"tenant/{id_}", "why": [f"paybill why {id_}", 3, None]} for id_ in ids(200)]
    requests: list[list[str]] = []
    with tenant_service(requests) as url:
        slugs = Slugs(Stack(tenant_url=url))
        named = slugs.within([*rows, *rows])
        again = slugs.within(rows)
        slugs.within(["no id"])

    assert [len(each) for each in requests] == [200]
    assert named == [*again, *again]
    assert again[15] == {"subject": "tenant/t-00f", "why": ["paybill why t-00f", 3, None]}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", None], ids=["away", "hung"])
def test_ids_stay_when_the_tenant_service_does_not_answer(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    monkeypatch.setenv("PAYBILL_API_KEY", "key")
    with hung_server() as hung:
        assert Slugs(Stack(tenant_url=url or hung)).within(ids(3)) == ids(3)


def test_people_read_slugs_and_programs_ids(on_stack, real_stack, customers) -> None:
    tenant, kind = customers.sign_up(), f"sync/{uuid4().hex}"
    with customers.fake() as fake:
        bed = Bed(real_stack, on_stack, customers, fake, Random())
    bed.sql(
        "billing",
        "INSERT INTO chassis.job (kind, key, queue, locks, lease, priority, due, state) VALUES "
        f"('{kind}', '{tenant['id']}', '{tenant['id']}', '{{}}', 'relay', 2, '2100-01-01Z', 'pending')",
    )

    people = on_stack("jobs", "list", "--kind", kind)
    programs = on_stack("jobs", "list", "--kind", kind, "--json")
    on_stack("jobs", "cancel", "--kind", kind, "--reason", "test", "--yes")

    assert (people.rows[0][3], programs.data[0]["key"]) == (tenant["slug"], tenant["id"])


def test_lists_of_billing_have_slugs(on_stack, customers) -> None:
    tenant = customers.sign_up()
    slug, id_ = tenant["slug"], tenant["id"]
    customers.pay(tenant["checkout_url"])
    deadline = Deadline(60)
    while (shown := on_stack("subscription", "show", slug)).code != ExitCode.OK:
        deadline.pause(shown.err)
    on_stack("usage", "consume", slug, "calls", "--quantity", 5)

    listed = on_stack("subscription", "list", "--limit", 10_000)
    windows = on_stack("usage", "windows", "--tenant", slug)
    licence = on_stack("licence", "issue", slug)
    licences = on_stack("licence", "list", "--tenant", slug)
    entitlements = on_stack("entitlement", "show", slug)
    by_id = on_stack("subscription", "show", id_, "--json").data

    assert slug in [row[1] for row in listed.rows]
    assert windows.rows[0][0].startswith(f"{slug}:calls:")
    assert licences.rows[0][1] == slug
    assert all(f"tenant: {slug}" in done.out.splitlines() for done in (shown, licence, entitlements))
    assert all(id_ not in done.out for done in (shown, listed, windows, licence, licences, entitlements))
    assert by_id["tenant_id"] == id_
    report = on_stack("usage", "report", windows.rows[0][0], "--json")
    assert report.error["code"] in {"window_not_reported", "unknown_window"}


def test_a_refusal_has_the_slug_that_the_command_named(on_stack, customers) -> None:
    tenant = customers.sign_up()

    people = on_stack("licence", "issue", tenant["slug"])
    programs = on_stack("licence", "issue", tenant["slug"], "--json")

    assert people.err.startswith(f"error[nothing_entitled] {tenant['slug']} has no subscription")
    assert programs.error["what"].startswith(f"{tenant['id']} has no subscription")


def test_why_asks_all_services_at_once_and_names_those_that_do_not_answer(paybill) -> None:
    with hung_server() as url:
        urls = [f"--{name}-url={url}" for name in ("tenant", "billing", "provisioner", "agent-gateway")]
        began = time.monotonic()
        done = paybill("why", ids(1)[0], *urls, **KEY)
        took_s = time.monotonic() - began

    assert done.code == ExitCode.FAILED
    assert DEADLINE_S <= took_s < len(urls) * DEADLINE_S
    assert [line.partition(" did not answer")[0] for line in done.err.splitlines() if "did not answer" in line] == [
        "tenant", "billing", "provisioner", "agent-gateway",
    ]  # fmt: skip
