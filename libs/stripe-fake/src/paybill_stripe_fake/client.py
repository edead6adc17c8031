"""The control verbs from Python: what a demo or a test does to the stand-in besides being its customer."""

import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx

Outcome = Literal["succeed", "fail"]
DeliveryState = Literal["pending", "delivered", "lost", "dropped"]

_POLL_S = 0.02


class FakeControlError(Exception):
    """The stand-in refused, or did not become what was waited for."""


class FakeControl:
    """A connection to the control routes of a running stand-in.

    api_key: the key that it was started with. timeout_s: of one call.
    """

    def __init__(self, base_url: str, api_key: str, *, timeout_s: float = 10.0) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=timeout_s,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Return once the stand-in answers; FakeControlError if it does not in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._http.get("/healthz").raise_for_status()
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    raise FakeControlError(
                        f"the stand-in at {self._http.base_url} did not answer within {timeout_s} s"
                    ) from error
                time.sleep(_POLL_S)
            else:
                return

    def pay_checkout(self, session_id: str, outcome: Outcome = "succeed") -> dict[str, Any]:
        """Pay as the customer would; returns the session, which is still `open` after a declined card."""
        return self._post(f"/fake/checkout/{session_id}/pay", {"outcome": outcome})

    def click_portal(self, url: str, subscription_id: str, action: Literal["cancel", "resume"]) -> dict[str, Any]:
        """Click on the page of a portal session as the customer would; returns the subscription."""
        return self._post(urlsplit(url).path, {"subscription": subscription_id, "action": action})

    def set_payment(self, customer_id: str, outcome: Outcome) -> dict[str, Any]:
        """Decide how charges to this customer's cards end from now on; gives a card to one who has none."""
        return self._post(f"/fake/customers/{customer_id}/payment", {"outcome": outcome})

    def renew(self, subscription_id: str) -> dict[str, Any]:
        """Let the subscription's period end now; returns the subscription."""
        return self._post(f"/fake/subscriptions/{subscription_id}/renew", {})

    def pay_invoice(self, invoice_id: str, outcome: Outcome = "succeed") -> dict[str, Any]:
        """Try to pay an open invoice, with this outcome whatever the card; returns the invoice."""
        return self._post(f"/fake/invoices/{invoice_id}/pay", {"outcome": outcome})

    def dispute(self, paid_id: str, *, reason: str = "fraudulent", inquiry: bool = False) -> dict[str, Any]:
        """Dispute a charge, or the charge of a paid invoice or payment intent; returns the dispute."""
        return self._post(f"/fake/charges/{paid_id}/dispute", {"reason": reason, "inquiry": inquiry})

    def close_dispute(self, dispute_id: str, outcome: Literal["won", "lost"]) -> dict[str, Any]:
        """End a dispute as the bank would; returns it."""
        return self._post(f"/fake/disputes/{dispute_id}/close", {"outcome": outcome})

    def fail_refund(self, refund_id: str) -> dict[str, Any]:
        """Let a refund come back from the bank; returns it."""
        return self._post(f"/fake/refunds/{refund_id}/fail", {})

    def clock(self) -> dict[str, Any]:
        """The account's time (`now`, Unix seconds) and how far it is ahead (`offset_s`)."""
        return self._get("/fake/clock", {})

    def advance_clock(self, by: timedelta) -> dict[str, Any]:
        """Move the account's time forward, by whole seconds; all that falls due on the way happens."""
        return self._post("/fake/clock/advance", {"seconds": int(by.total_seconds())})

    def faults(
        self,
        *,
        duplicate: int | None = None,
        reorder: bool | None = None,
        shuffle: bool | None = None,
        delay_s: float | None = None,
        lose: int | Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Set the given faults of webhook delivery, and return all.

        duplicate: copies of each event, 1 for no fault. reorder: the newest queued first. shuffle: in no order.
        delay_s: the longest time that a copy waits before its first attempt, each one of its own.
        lose: how many of the next events never arrive, or the types that never do; 0 ends either.
        """
        given = {
            "duplicate": duplicate,
            "reorder": reorder,
            "shuffle": shuffle,
            "delay_s": delay_s,
            "lose": lose if isinstance(lose, int | None) else [*lose],
        }
        return self._post("/fake/faults", {key: value for key, value in given.items() if value is not None})

    def fail_calls(
        self, count: int, *, status: int = 500, path: str = "/", after: bool = False, retry_after_s: int | None = None
    ) -> None:
        """Let the next so many API calls whose path begins so fail; with `after`, once they were carried out."""
        given = {"fail": count, "status": status, "path": path, "after": after, "retry_after_s": retry_after_s}
        self._post("/fake/api-faults", given)

    def delay_calls(self, delay_s: float, *, path: str = "/") -> None:
        """Hold every API call whose path begins so up; 0 ends it, and any failures still to come."""
        self._post("/fake/api-faults", {"delay_s": delay_s, "path": path})

    def limit_calls(self, *, per_endpoint: int | None = None, per_account: int | None = None) -> None:
        """Answer 429 to more API calls than these within a second; 0 ends a limit."""
        self._post("/fake/limits", {"per_endpoint": per_endpoint, "per_account": per_account})

    def calls(self) -> dict[str, Any]:
        """API calls so far: `total`, `refused`, `max_per_s` (the most within any one second), and by `endpoints`."""
        return self._get("/fake/requests", {})

    def forget_calls(self) -> None:
        """Count API calls from nought."""
        self._post("/fake/requests/forget", {})

    def set_payload(self, payload: Literal["snapshot", "thin", "both"], endpoint_id: str = "we_commandline") -> None:
        """Decide what an endpoint is sent from now on; without an id, the one of the command line."""
        self._post(f"/fake/webhook-endpoints/{endpoint_id}/payload", {"payload": payload})

    def pause_delivery(self) -> None:
        """Hold webhooks back; events go on happening."""
        self._post("/fake/delivery/pause", {})

    def resume_delivery(self) -> None:
        """Let webhooks go out again."""
        self._post("/fake/delivery/resume", {})

    def deliveries(self, *, event: str | None = None, state: DeliveryState | None = None) -> list[dict[str, Any]]:
        """The last 1,000 deliveries, oldest first, with their attempts; of one event or in one state if given."""
        given = {"event": event, "state": state}
        found: list[dict[str, Any]] = self._get(
            "/fake/deliveries", {key: value for key, value in given.items() if value is not None}
        )["data"]
        return found

    def redeliver(self, event_id: str) -> list[dict[str, Any]]:
        """Send an event once more, faults or not; returns the new deliveries."""
        queued: list[dict[str, Any]] = self._post(f"/fake/events/{event_id}/redeliver", {})["data"]
        return queued

    def alert_lost(self, event_type: str, object_id: str) -> dict[str, Any]:
        """Tell by a thin event that one about this object could not be generated; returns what was told."""
        return self._post("/fake/alerts", {"event_type": event_type, "object": object_id})

    def wait_delivered(self, timeout_s: float = 10.0) -> None:
        """Return once no delivery is pending; FakeControlError if that takes longer."""
        deadline = time.monotonic() + timeout_s
        while pending := self._get("/fake/deliveries", {"limit": "1", "state": "pending"})["pending"]:
            if time.monotonic() > deadline:
                raise FakeControlError(f"{pending} webhooks were still undelivered after {timeout_s} s")
            time.sleep(_POLL_S)

    def reset(self) -> None:
        """Start with an empty account in real time; the webhook endpoint of the command line stays."""
        self._post("/fake/reset", {})

    def _get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        return self._call("GET", path, params=query)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call("POST", path, json=body)

    def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **more)
            answer: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise FakeControlError(f"{method} {path}: no answer from {self._http.base_url} ({error})") from error
        if response.is_error:
            raise FakeControlError(f"{method} {path}: {answer['error']['message']}")
        return answer
