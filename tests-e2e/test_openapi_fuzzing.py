"""Generated requests to all services of a stack, with the operator's key: everything answered is documented.

`PAYBILL_TEST_OPENAPI_REQUESTS` sets the number of requests, and `PAYBILL_TEST_OPENAPI_SEED` repeats a run.
"""

import os
import random
import sys
import time
from typing import Any

import httpx
import pytest
from openapi_fuzzing import Fuzzer
from paybill_embedded.users import SERVICES

pytestmark = pytest.mark.e2e

REQUESTS = int(os.environ.get("PAYBILL_TEST_OPENAPI_REQUESTS", "1000"))
SEED = int(os.environ.get("PAYBILL_TEST_OPENAPI_SEED", random.SystemRandom().randrange(2**32)))
SIGN_UP = {"name": "Acme", "contact_email": "ada@acme.example", "plan": "starter", "region": "eu-central"}
READY_WITHIN_S = 60


def known_values(urls: dict[str, str], client: httpx.Client) -> dict[str, str]:
    """Creates a tenant that pays by invoice; returns the path parameters that exist now."""
    body = SIGN_UP | {"slug": "acme", "payment": "manual"}
    end = time.monotonic() + READY_WITHIN_S
    while (made := client.post(f"{urls['tenant']}/v1/tenants", json=body)).status_code != httpx.codes.ACCEPTED:
        assert made.json()["code"] == "offerings_not_published", made.text
        assert time.monotonic() < end, "the options of sign-ups were not published"
        time.sleep(0.2)
    tenant = made.json()["id"]
    contract = f"{urls['billing']}/v1/manual/contracts/{tenant}"
    while client.post(f"{contract}/accept", json={"order": "PO 1"}).status_code != httpx.codes.OK:
        assert time.monotonic() < end, "the offer was not made"
        time.sleep(0.2)
    while not (invoices := client.get(contract).json()["invoices"]):
        assert time.monotonic() < end, "no invoice was made"
        time.sleep(0.2)
    while not (environments := client.get(f"{urls['provisioner']}/v1/environments").json()["environments"]):
        assert time.monotonic() < end, "no environment was registered"
        time.sleep(0.2)
    values = {
        "tenant": tenant,
        "tenant_id": tenant,
        "invoice_id": invoices[0]["invoice_id"],
        "environment": environments[0]["id"],
        "provider": "manual",
        "name": "acme",
    }
    cells = client.get(f"{urls['provisioner']}/v1/cells").json()["cells"]
    return values | ({"cell": cells[0]["id"]} if cells else {})


def test_every_answer_is_documented_and_no_request_leads_to_an_internal_error(stack: Any) -> None:
    _, described = stack
    urls = {part["name"]: part["address"] for part in described["parts"] if part["name"] in SERVICES}
    key = described["operator_key"]
    sys.stdout.write(f"PAYBILL_TEST_OPENAPI_SEED={SEED}\n")

    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        known = known_values(urls, client)
        documents = {name: client.get(f"{url}/openapi.json").json() for name, url in urls.items()}
        found = {
            name: Fuzzer(documents[name], url, key, known, SEED).fuzz(REQUESTS // len(urls))
            for name, url in urls.items()
        }
        after = [client.get(f"{url}/readyz").status_code for url in urls.values()]
    for name, findings in found.items():
        sys.stdout.write(f"{name}: {dict(findings.requests)}, {dict(sorted(findings.statuses.items()))}\n")

    assert {name: findings.failures for name, findings in found.items() if findings.failures} == {}
    assert after == [httpx.codes.OK] * len(urls)
    assert set(urls) == set(SERVICES)
    assert sum(sum(findings.requests.values()) for findings in found.values()) >= REQUESTS * 0.9
    assert all(findings.requests[phase] > 0 for findings in found.values() for phase in ("coverage", "fuzzing"))
