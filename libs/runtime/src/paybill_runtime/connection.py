"""The connection to NATS: made in the background, kept for ever, and honest about being away."""

import asyncio
import logging

from nats.aio.client import Client
from nats.errors import Error as NatsError

log = logging.getLogger(__name__)


class Bus:
    """A client that keeps trying. `client` is used only while `connected` is set."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._user = user
        self._password = password
        self.client = Client()
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Connect, as often as it takes; afterwards the client reconnects by itself."""
        while True:
            try:
                await self.client.connect(
                    self._url,
                    user=self._user or None,
                    password=self._password or None,
                    inbox_prefix=f"_INBOX_{self._user or 'paybill'}".encode(),
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.2,
                    connect_timeout=2,
                    allow_reconnect=True,
                    disconnected_cb=self._away,
                    reconnected_cb=self._back,
                    error_cb=self._failed,
                )
            except (OSError, NatsError, TimeoutError):
                log.warning("NATS does not answer at %s; trying again", self._url)
                await asyncio.sleep(0.5)
            else:
                self.connected.set()
                return

    async def close(self) -> None:
        """Flush and leave."""
        self.connected.clear()
        if self.client.is_connected:
            await self.client.flush()
        await self.client.close()

    async def _away(self) -> None:
        self.connected.clear()
        log.warning("the connection to NATS is lost; facts wait in the outbox")

    async def _back(self) -> None:
        self.connected.set()
        log.info("connected to NATS again")

    async def _failed(self, error: Exception) -> None:
        log.warning("NATS: %s", error)
