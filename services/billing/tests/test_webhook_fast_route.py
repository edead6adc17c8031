"""The fast route answers webhooks as the FastAPI route does."""

import json
import time

import pytest

BODY = json.dumps(
    {
        "id": "evt_1",
        "object": "event",
        "type": "customer.subscription.updated",
        "created": 1_700_000_000,
        "livemode": False,
        "data": {"object": {"id": "sub_1", "object": "subscription", "customer": "cus_none"}},
    }
).encode()
MESSAGES = {
    "good": (BODY, {}, 200),
    "forged": (BODY, {"secret": "whsec_other"}, 400),
    "stale": (BODY, {"at": time.time() - 330}, 400),
    "broken": (b"{not json", {}, 400),
    "unsigned": (BODY, None, 400),
}


@pytest.mark.parametrize(("body", "signing", "status"), MESSAGES.values(), ids=MESSAGES)
async def test_the_fast_route_and_the_fastapi_route_answer_alike(testbed, outside, signed, body, signing, status):
    headers = {} if signing is None else signed(**{"body": body, **signing})

    direct = await outside.post("/webhooks/stripe", content=body, headers=headers)
    # This client calls the FastAPI application itself.
    routed = await testbed.served.client.post("/webhooks/stripe", content=body, headers=headers)

    assert direct.status_code == routed.status_code == status
    assert direct.headers["content-type"] == routed.headers["content-type"]
    assert {**direct.json(), "trace_id": None} == {**routed.json(), "trace_id": None}
    assert len(await testbed.sql("SELECT 1 FROM webhooks")) == (status == 200)
