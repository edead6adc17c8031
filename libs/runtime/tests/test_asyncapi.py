"""A running service documents the events that it receives and sends."""

import subprocess
import sys
from dataclasses import replace

from paybill_runtime.messaging.asyncapi import document
from paybill_runtime.messaging.subscriptions import Subscriptions
from paybill_tenant.app import service


async def test_a_service_serves_its_document_without_an_api_key(served) -> None:
    answer = await served.client.get("/asyncapi.json", headers={"Authorization": ""})

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == document("tenant", service().subscriptions)
    assert (await served.client.get("/asyncapi.json")).content == answer.content
    assert "/asyncapi.json" not in (await served.client.get("/openapi.json")).json()["paths"]


async def test_a_subscription_to_all_facts_is_one_channel(start) -> None:
    subscriptions = Subscriptions()

    @subscriptions.all_facts()
    def copy(_unit, _message, _at) -> None:
        return

    served = await start(replace(service(), subscriptions=subscriptions))
    answer = (await served.client.get("/asyncapi.json")).json()

    assert answer["channels"]["all_facts"]["address"] == "paybill.events.>"
    assert answer["operations"]["receive.all_facts"]["action"] == "receive"


def test_a_service_builds_no_schemas_when_it_starts() -> None:
    """The document of billing takes as long as its OpenAPI document, and 5 MB."""
    program = (
        "import sys\n"
        "from paybill_contracts.event import known_events\n"
        "from paybill_tenant.app import service\n"
        "declared = service().subscriptions.router\n"
        "assert declared.subscribers and not declared.publishers\n"
        "assert not [event for event in known_events() if event.__pydantic_complete__]\n"
        "assert 'faststream.specification.asyncapi.v3_0_0' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
