"""Sends webhooks, signed like Stripe's, and retries each until the endpoint accepts it."""

import asyncio
import hashlib
import hmac
import json
import logging
import time
from contextlib import suppress
from functools import partial

import httpx

from paybill_stripe_fake import deliveries, events, thin_events
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.store import Resource
from paybill_stripe_fake.webhook_endpoints import signing_secrets

MAX_RETRY_S = 15.0
_MAX_RESPONSE_BYTES = 65_536
_MAX_DOUBLINGS = 20
_OK = range(200, 300)
_logger = logging.getLogger("paybill_stripe_fake.sender")


def signature_header(payload: str, secrets: tuple[str, ...], timestamp: int) -> str:
    """Returns the `Stripe-Signature` header of a body, with one v1 signature for each secret."""
    signed = f"{timestamp}.{payload}".encode()
    signatures = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={signature}" for signature in signatures)])


class Sender:
    """Sends webhooks from one queue per endpoint, one at a time, so that order is kept unless a fault changes it.

    retry_s: the delay after the first failed attempt; it doubles up to MAX_RETRY_S.
    """

    def __init__(self, account: Account, *, timeout_s: float, retry_s: float) -> None:
        self._account = account
        self._retry_s = retry_s
        self._changed = asyncio.Event()
        self._queues: dict[str, asyncio.Task[None]] = {}
        self._client = httpx.AsyncClient(timeout=timeout_s, trust_env=False, follow_redirects=False)
        account.committed = self._announce

    async def run(self) -> None:
        """Sends until cancelled; an interrupted attempt is repeated after the next start."""
        try:
            while True:
                changed = self._changed
                for endpoint_id in {delivery["endpoint"] for delivery in deliveries.pending(self._account)}:
                    if endpoint_id not in self._queues:
                        self._queues[endpoint_id] = asyncio.create_task(self._drain(endpoint_id))
                        self._queues[endpoint_id].add_done_callback(partial(self._drained, endpoint_id))
                await changed.wait()
        finally:
            running = list(self._queues.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await self._client.aclose()

    def _announce(self) -> None:
        # Each waiter holds the event that was current when it read the state, so that no change is missed.
        self._changed.set()
        self._changed = asyncio.Event()

    def _drained(self, endpoint_id: str, task: asyncio.Task[None]) -> None:
        del self._queues[endpoint_id]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            # The next change in the account starts this queue again.
            _logger.error("delivery to %s stopped", endpoint_id, exc_info=error)
        else:
            self._announce()

    async def _drain(self, endpoint_id: str) -> None:
        """Sends all pending deliveries of one endpoint, and waits for those that are due later."""
        while True:
            changed = self._changed
            queued = deliveries.pending(self._account, endpoint_id)
            if not queued:
                return
            now = time.time()
            paused = deliveries.paused(self._account)
            batch = [] if paused else deliveries.due(self._account, endpoint_id, now)
            if not batch:
                wait_s = None if paused else max(0.0, min(delivery["due_at"] for delivery in queued) - now)
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), wait_s)
            for delivery in batch:
                current = self._account.store.find("delivery", delivery["id"])
                if deliveries.paused(self._account) or current is None or current["state"] != "pending":
                    break
                await self._send(current)

    async def _send(self, delivery: Resource) -> None:
        thin = self._account.store.find("v2.core.event", delivery["event"])
        event = thin or events.rendered(self._account, self._account.get("event", delivery["event"]))
        if delivery.get("payload") == "thin":
            event = thin_events.notification(event)
        # The endpoint's current address, which may have changed since the delivery was queued.
        endpoint = self._account.get("webhook_endpoint", delivery["endpoint"])
        payload = json.dumps(event, separators=(",", ":"))
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            # The receiver compares this time with its own clock, so it is never the account's virtual time.
            "Stripe-Signature": signature_header(
                payload, signing_secrets(self._account, delivery["endpoint"]), int(time.time())
            ),
        }
        status, error = None, None
        try:
            async with self._client.stream(
                "POST", endpoint["url"], content=payload.encode(), headers=headers
            ) as response:
                status = response.status_code
                await _read_some(response)
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            error = type(failure).__name__
        if error is None and status not in _OK:
            error = f"HTTP {status}"
        retry_s = min(MAX_RETRY_S, self._retry_s * 2 ** min(delivery["attempts"], _MAX_DOUBLINGS))
        now = self._account.store.find("delivery", delivery["id"])
        if now is None or now["state"] != "pending":
            return  # the account was reset meanwhile, or the endpoint removed
        with self._account.work():
            deliveries.record(self._account, delivery, status=status, error=error, retry_s=retry_s)


async def _read_some(response: httpx.Response) -> None:
    """Reads a short response to its end, so that the connection can be reused; gives up on a long one."""
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > _MAX_RESPONSE_BYTES:
            return
