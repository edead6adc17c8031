"""The fast route answers webhooks as the FastAPI route does."""

import json
import time

import pytest
from paybill_runtime.http.fast_route import match_fast_route

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
    request = outside.build_request("POST", "/webhooks/stripe", content=body, headers=headers)
    lines = b"".join(b"%b: %b\r\n" % field for field in request.headers.raw)
    assert match_fast_route(
        b"POST /webhooks/stripe HTTP/1.1\r\n" + lines + b"\r\n" + body, testbed.served.running.context.fast_routes
    )

    direct = await outside.send(request)
    routed = await outside.post("/webhooks/stripe", content=body, headers={**headers, "trailer": "x"})

    assert direct.status_code == routed.status_code == status
    assert direct.headers["content-type"] == routed.headers["content-type"]
    assert {**direct.json(), "trace_id": None} == {**routed.json(), "trace_id": None}
    assert len(await testbed.sql("SELECT 1 FROM webhooks")) == (status == 200)
