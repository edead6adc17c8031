"""Streams are created and updated to the configuration of this version."""

import pytest
from nats.js.api import StreamConfig
from nats.js.errors import APIError
from paybill_runtime.messaging.streams import KEYS, configurations, connect, ensure

ROLLUP_NOT_PERMITTED = 10111


async def test_a_bucket_that_permitted_rollups_is_updated_and_no_message_erases_the_keys_of_others(nats) -> None:
    steward, tenant, billing = [
        await connect(nats.url, user, nats.password(user)) for user in ("steward", "tenant", "billing")
    ]
    [keys] = [each for each in configurations(1) if each.name == KEYS]
    await steward.jetstream().update_stream(StreamConfig(**{**vars(keys), "allow_rollup_hdrs": True}))
    await billing.jetstream().publish("$KV.keys.billing.ten_1", b"a key")

    await ensure(steward)

    for rollup in ("all", "sub"):
        with pytest.raises(APIError) as refused:
            await tenant.jetstream().publish("$KV.keys.tenant.ten_1", b"", headers={"Nats-Rollup": rollup})
        assert refused.value.err_code == ROLLUP_NOT_PERMITTED
    info = await steward.jetstream().stream_info(KEYS)
    assert (info.state.messages, info.config.allow_rollup_hdrs) == (1, False)
    for client in (steward, tenant, billing):
        await client.close()
