"""Opens personal data, for subscribers that were created with `--open-sealed`.

async with Unsealer("crm.json") as unsealer:
    email = await unsealer.unseal(event.contact_email)  # None: it was erased

No key is kept: each value needs one request to the key bucket, so that erased data cannot be opened any more.
"""

import asyncio
from base64 import b64decode
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError
from paybill_contracts.errors import RetryLaterError
from paybill_contracts.key_copies import KEY_BUCKET, copy_for, decrypt, key_subject
from paybill_contracts.personal import Personal, UnsealingError, unseal

from paybill_client.connection import CONNECT_TIMEOUT_S, DeniedError, ErrorMonitor, client_options, close
from paybill_client.credentials import Credentials, read_credentials
from paybill_client.errors import CredentialsError, UnsealDeniedError

ANSWER_TIMEOUT_S = 5.0
REPLICA_S = 0.2
"""Time after which a missing key is requested once more: a replica of the bucket may be behind for a moment."""


class Unsealer:
    """A connection that opens personal data until the block ends; it reconnects by itself.

    credentials: of the subscriber, or the path of its credentials file. Raises CredentialsError when they contain no
    right to open personal data. Entering raises UnsealDeniedError, and RetryLaterError while NATS is away.
    """

    def __init__(self, credentials: Credentials | Path | str) -> None:
        self._credentials = read_credentials(credentials)
        self._name = self._credentials.name
        if self._credentials.private_key is None or not self._credentials.opens:
            raise CredentialsError(f"{self._name} may not open personal data", self._next_step("CONTEXT"))
        raw = b64decode(self._credentials.private_key.get_secret_value())
        self._private = X25519PrivateKey.from_private_bytes(raw)
        self._client = Client()
        self._monitor = ErrorMonitor()

    async def __aenter__(self) -> Self:
        """Connects."""
        connecting = self._client.connect(
            **client_options(self._credentials, self._monitor),
            user=self._name,
            password=self._credentials.password.get_secret_value(),
        )
        try:
            await self._monitor.unless_denied(connecting, CONNECT_TIMEOUT_S)
        except (TimeoutError, OSError, NatsError) as error:
            await close(self._client.close())
            raise self._away(error) from error
        except DeniedError as error:
            await close(self._client.close())
            raise self._denied(str(error)) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connection."""
        await close(self._client.close())

    async def unseal(self, value: Personal[str]) -> str | None:
        """Returns the plain value; None when it was erased, that is when its key was deleted.

        Raises UnsealDeniedError when this subscriber may not open the value, and RetryLaterError, which a handler may
        pass on, while NATS is away or the key is not encrypted for this subscriber yet.
        """
        owner, _, tenant = value.key.partition("/")
        if owner not in self._credentials.opens:
            raise UnsealDeniedError(f"{self._name} may not open personal data of {owner}", self._next_step(owner))
        message = await self._fetch(owner, tenant)
        if not message:
            return None
        copy = copy_for(self._name, message)
        if copy is None:
            raise RetryLaterError(
                f"the key {value.key} is not encrypted for {self._name} yet; paybill jobs list --kind copy_data_keys"
            )
        try:
            key = decrypt(copy, self._private, self._name)
        except UnsealingError as error:
            raise UnsealDeniedError(
                f"the private key of {self._name} is not the one that the keys are encrypted for",
                "copy the credentials file again",
            ) from error
        try:
            return unseal(value, key)
        except UnsealingError:  # a new key of this tenant: the one of this value was deleted
            return None

    async def _fetch(self, owner: str, tenant: str) -> bytes:
        """Returns the copies of a key; empty when it is deleted."""
        jetstream = self._client.jetstream(prefix=self._credentials.jetstream_prefix, timeout=ANSWER_TIMEOUT_S)
        for is_last in (False, True):
            try:
                message = await self._monitor.unless_denied(
                    jetstream.get_last_msg(KEY_BUCKET, key_subject(owner, tenant), direct=True)
                )
                return message.data or b""
            except NotFoundError:
                if not is_last:
                    await asyncio.sleep(REPLICA_S)
            except DeniedError as error:
                await self._monitor.on_reconnect()  # the next value may be of a context that is allowed
                raise self._denied(str(error)) from error
            except (APIError, NatsError, OSError, TimeoutError) as error:
                raise self._away(error) from error
        return b""

    def _away(self, error: Exception) -> RetryLaterError:
        reason = str(error) or type(error).__name__
        return RetryLaterError(f"NATS does not answer at {', '.join(self._credentials.servers)}: {reason}")

    def _denied(self, reason: str) -> UnsealDeniedError:
        return UnsealDeniedError(
            f"NATS denies this to {self._name}: {reason}", "check the credentials file, and that the right still exists"
        )

    def _next_step(self, context: str) -> str:
        return f"paybill subscriber create {self._name} --contexts … --open-sealed {context}"
