"""Personal data is opened only with the right to open it, on a real NATS, and not after its key was erased."""

import asyncio
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes

import pytest
from paybill_client import CredentialsError, UnsealDeniedError, Unsealer
from paybill_client.credentials import read_credentials
from paybill_contracts.errors import RetryLaterError
from paybill_contracts.key_copies import encode_copies, key_subject
from paybill_contracts.personal import NONCE_BYTES, Personal, seal
from paybill_embedded.nats import NatsServer
from paybill_runtime.messaging.streams import KEYS, connect
from paybill_runtime.security.identity import encrypt
from paybill_runtime.testing import until
from paybill_stack.clients import subscriber_public_key

EMAIL = "un.likely@acme.example"
TENANT = "ten_" + "0" * 32
KEY = token_bytes(32)


def _sealed(owner: str = "tenant", key: bytes = KEY) -> Personal[str]:
    return seal(EMAIL, key=key, name=f"{owner}/{TENANT}", nonce=token_bytes(NONCE_BYTES))


async def _store(
    nats: NatsServer, message: bytes, owner: str = "tenant", headers: dict[str, str] | None = None
) -> None:
    """Stores the copies of a key as its owner."""
    client = await connect(nats.url, owner, nats.password(owner))
    await client.jetstream().publish(key_subject(owner, TENANT), message, stream=KEYS, headers=headers)
    await client.close()


def _copies(nats: NatsServer, *names: str) -> bytes:
    return encode_copies({name: encrypt(KEY, subscriber_public_key(nats.data_dir, name), name) for name in names})


async def test_a_subscriber_with_the_right_opens_personal_data(create_subscriber, nats) -> None:
    path = await create_subscriber(opens=("tenant",))
    await _store(nats, _copies(nats, "crm"))

    async with Unsealer(path) as unsealer:
        assert await unsealer.unseal(_sealed()) == EMAIL


@pytest.mark.parametrize("erased", ["marker", "another key"])
async def test_erased_data_is_none_even_if_it_was_opened_before(create_subscriber, nats, erased) -> None:
    path = await create_subscriber(opens=("tenant",))
    await _store(nats, _copies(nats, "crm"))
    async with Unsealer(path) as unsealer:
        assert await unsealer.unseal(_sealed()) == EMAIL

        if erased == "marker":
            await _store(nats, b"", headers={"KV-Operation": "DEL"})
            assert await unsealer.unseal(_sealed()) is None
        else:
            assert await unsealer.unseal(_sealed(key=token_bytes(32))) is None


async def test_data_whose_key_never_existed_or_is_deleted_is_none(create_subscriber) -> None:
    async with Unsealer(await create_subscriber(opens=("tenant",))) as unsealer:
        assert await unsealer.unseal(_sealed()) is None


async def test_without_the_right_the_keys_cannot_be_read(create_subscriber, nats) -> None:
    path = await create_subscriber()
    await _store(nats, _copies(nats, "crm"))
    with pytest.raises(CredentialsError, match="may not open personal data; paybill subscriber create crm"):
        Unsealer(path)

    async with Unsealer(_forged(path, "tenant")) as unsealer:
        with pytest.raises(UnsealDeniedError, match="permissions violation"):
            await unsealer.unseal(_sealed())


async def test_the_right_for_one_context_does_not_open_another(create_subscriber, nats) -> None:
    path = await create_subscriber(opens=("tenant",))
    await _store(nats, _copies(nats, "crm"), owner="billing")
    await _store(nats, _copies(nats, "crm"))
    async with Unsealer(path) as unsealer:
        with pytest.raises(UnsealDeniedError, match="may not open personal data of billing"):
            await unsealer.unseal(_sealed("billing"))

    async with Unsealer(_forged(path, "tenant", "billing")) as unsealer:
        with pytest.raises(UnsealDeniedError, match="permissions violation"):
            await unsealer.unseal(_sealed("billing"))
        assert await unsealer.unseal(_sealed()) == EMAIL


def _forged(path: Path, *opens: str):
    """Returns the credentials with rights that NATS does not know."""
    key = type(read_credentials(path).password)(b64encode(token_bytes(32)).decode())
    private_key = read_credentials(path).private_key or key
    return read_credentials(path).model_copy(update={"opens": opens, "private_key": private_key})


async def test_a_key_that_is_not_encrypted_for_the_subscriber_yet_is_waited_for(create_subscriber, nats) -> None:
    path = await create_subscriber(opens=("tenant",))
    await _store(nats, _copies(nats, "warehouse"))

    async with Unsealer(path) as unsealer:
        with pytest.raises(RetryLaterError, match="not encrypted for crm yet"):
            await unsealer.unseal(_sealed())


async def test_a_replaced_key_pair_is_reported(create_subscriber, nats) -> None:
    path = await create_subscriber(opens=("tenant",))
    await _store(nats, encode_copies({"crm": encrypt(KEY, subscriber_public_key(nats.data_dir, "other"), "crm")}))

    async with Unsealer(path) as unsealer:
        with pytest.raises(UnsealDeniedError, match="copy the credentials file again"):
            await unsealer.unseal(_sealed())


async def test_a_withdrawn_right_ends_at_once_and_a_new_one_needs_no_restart(create_subscriber, nats) -> None:
    path = await create_subscriber(opens=("tenant",))
    await _store(nats, _copies(nats, "crm"))
    async with Unsealer(path) as unsealer:
        assert await unsealer.unseal(_sealed()) == EMAIL

        await create_subscriber()
        with pytest.raises(UnsealDeniedError, match="permissions violation"):
            await unsealer.unseal(_sealed())
        await create_subscriber(opens=("tenant",))

        assert await unsealer.unseal(_sealed()) == EMAIL


@pytest.mark.e2e
@pytest.mark.own_nats
async def test_while_nats_is_away_an_outage_is_reported(create_subscriber, nats) -> None:
    path = await create_subscriber(opens=("tenant",))
    await _store(nats, _copies(nats, "crm"))
    async with Unsealer(path) as unsealer:
        await asyncio.to_thread(nats.kill)
        with pytest.raises(RetryLaterError, match="NATS does not answer"):
            await unsealer.unseal(_sealed())
        await asyncio.to_thread(nats.start)

        async def opened() -> bool:
            with suppress(RetryLaterError):
                return await unsealer.unseal(_sealed()) == EMAIL
            return False

        await until(opened)
