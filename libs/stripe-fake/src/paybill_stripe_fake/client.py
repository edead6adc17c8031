"""Client for the control routes, used by demos and tests."""

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
    """Raised when the fake refuses a call, or does not reach the awaited state in time."""


class FakeControl:
    """Connection to the control routes of a running Stripe fake.

    api_key: the key that the fake was started with. timeout_s: of one call.
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
        """Closes the connection."""
        self._http.close()

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Returns once the fake responds; raises FakeControlError on a timeout."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._http.get("/healthz").raise_for_status()
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    raise FakeControlError(
                        f"the Stripe fake at {self._http.base_url} did not answer within {timeout_s} s"
                    ) from error
                time.sleep(_POLL_S)
            else:
                return

    def checkout(self, session_id: str) -> dict[str, Any]:
        """Returns a Checkout Session of Stripe's API."""
        return self._get(f"/v1/checkout/sessions/{session_id}", {})

    def pay_checkout(
        self, session_id: str, outcome: Outcome | Literal["no_card"] = "succeed", *, promotion_code: str | None = None
    ) -> dict[str, Any]:
        """Pays as the customer would; returns the session, which is still `open` after a declined card.

        no_card: begins a trial without a card. promotion_code: that the customer enters on the page.
        """
        entered = {} if promotion_code is None else {"promotion_code": promotion_code}
        return self._post(f"/fake/checkout/{session_id}/pay", {"outcome": outcome, **entered})

    def click_portal(self, url: str, subscription_id: str, action: Literal["cancel", "resume"]) -> dict[str, Any]:
        """Clicks on the page of a portal session as the customer would; returns the subscription."""
        return self._post(urlsplit(url).path, {"subscription": subscription_id, "action": action})

    def set_payment(self, customer_id: str, outcome: Outcome) -> dict[str, Any]:
        """Sets the outcome of future charges to this customer's cards; adds a card if the customer has none."""
        return self._post(f"/fake/customers/{customer_id}/payment", {"outcome": outcome})

    def renew(self, subscription_id: str) -> dict[str, Any]:
        """Ends the subscription's current period now; returns the subscription."""
        return self._post(f"/fake/subscriptions/{subscription_id}/renew", {})

    def pay_invoice(self, invoice_id: str, outcome: Outcome = "succeed") -> dict[str, Any]:
        """Tries to pay an open invoice with this outcome, whatever the card; returns the invoice."""
        return self._post(f"/fake/invoices/{invoice_id}/pay", {"outcome": outcome})

    def dispute(self, paid_id: str, *, reason: str = "fraudulent", inquiry: bool = False) -> dict[str, Any]:
        """Disputes a charge, or the charge of a paid invoice or payment intent; returns the dispute."""
        return self._post(f"/fake/charges/{paid_id}/dispute", {"reason": reason, "inquiry": inquiry})

    def close_dispute(self, dispute_id: str, outcome: Literal["won", "lost"]) -> dict[str, Any]:
        """Closes a dispute as the bank would; returns it."""
        return self._post(f"/fake/disputes/{dispute_id}/close", {"outcome": outcome})

    def fail_refund(self, refund_id: str) -> dict[str, Any]:
        """Fails a refund, as when the bank returns it; returns the refund."""
        return self._post(f"/fake/refunds/{refund_id}/fail", {})

    def clock(self) -> dict[str, Any]:
        """Returns the account's time (`now`, Unix seconds) and its offset from real time (`offset_s`)."""
        return self._get("/fake/clock", {})

    def advance_clock(self, by: timedelta) -> dict[str, Any]:
        """Advances the account's time by whole seconds; everything that falls due in between happens."""
        return self._post("/fake/clock/advance", {"seconds": int(by.total_seconds())})

    def finalize_after(self, delay: timedelta) -> dict[str, Any]:
        """Sets the time from the end of a period to the finalisation of its invoice; about an hour at Stripe."""
        return self._post("/fake/finalization", {"after_s": int(delay.total_seconds())})

    def faults(
        self,
        *,
        duplicate: int | None = None,
        reorder: bool | None = None,
        shuffle: bool | None = None,
        delay_s: float | None = None,
        lose: int | Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Sets the passed faults of webhook delivery, and returns all.

        duplicate: copies of each event, 1 for no fault. reorder: newest queued event first. shuffle: random order.
        delay_s: upper bound of a random delay before the first attempt of each copy.
        lose: number of next events that are never delivered, or the types that never are; 0 ends either.
        """
        parameters = {
            "duplicate": duplicate,
            "reorder": reorder,
            "shuffle": shuffle,
            "delay_s": delay_s,
            "lose": lose if isinstance(lose, int | None) else [*lose],
        }
        return self._post("/fake/faults", {key: value for key, value in parameters.items() if value is not None})

    def fail_calls(
        self, count: int, *, status: int = 500, path: str = "/", after: bool = False, retry_after_s: int | None = None
    ) -> None:
        """Fails the next `count` API calls under this path; with `after`, each call is carried out first."""
        parameters = {"fail": count, "status": status, "path": path, "after": after, "retry_after_s": retry_after_s}
        self._post("/fake/api-faults", parameters)

    def delay_calls(self, delay_s: float, *, path: str = "/") -> None:
        """Delays every API call under this path; 0 ends it, and any failures still to come."""
        self._post("/fake/api-faults", {"delay_s": delay_s, "path": path})

    def limit_calls(self, *, per_endpoint: int | None = None, per_account: int | None = None) -> None:
        """Limits API calls per second, beyond which the response is 429; 0 removes a limit."""
        self._post("/fake/limits", {"per_endpoint": per_endpoint, "per_account": per_account})

    def calls(self) -> dict[str, Any]:
        """Returns counts of API calls: `total`, `refused`, `max_per_s` (peak of any one second), and by `endpoints`."""
        return self._get("/fake/requests", {})

    def reset_calls(self) -> None:
        """Resets the counts of API calls."""
        self._post("/fake/requests/forget", {})

    def set_payload(self, payload: Literal["snapshot", "thin", "both"], endpoint_id: str = "we_commandline") -> None:
        """Sets the payload style of an endpoint, by default of the one from the command line."""
        self._post(f"/fake/webhook-endpoints/{endpoint_id}/payload", {"payload": payload})

    def pause_delivery(self) -> None:
        """Pauses webhook delivery; events are still recorded."""
        self._post("/fake/delivery/pause", {})

    def resume_delivery(self) -> None:
        """Resumes webhook delivery."""
        self._post("/fake/delivery/resume", {})

    def deliveries(self, *, event: str | None = None, state: DeliveryState | None = None) -> list[dict[str, Any]]:
        """Returns the last 1,000 deliveries, oldest first, with their attempts; filtered by event or state."""
        parameters = {"event": event, "state": state}
        found: list[dict[str, Any]] = self._get(
            "/fake/deliveries", {key: value for key, value in parameters.items() if value is not None}
        )["data"]
        return found

    def redeliver(self, event_id: str) -> list[dict[str, Any]]:
        """Sends an event once more, regardless of faults; returns the new deliveries."""
        queued: list[dict[str, Any]] = self._post(f"/fake/events/{event_id}/redeliver", {})["data"]
        return queued

    def report_generation_failure(self, event_type: str, object_id: str) -> dict[str, Any]:
        """Emits the thin event that reports a failure to generate an event about this object; returns it."""
        return self._post("/fake/alerts", {"event_type": event_type, "object": object_id})

    def wait_delivered(self, timeout_s: float = 60.0) -> None:
        """Returns once no delivery is pending; raises FakeControlError on a timeout."""
        deadline = time.monotonic() + timeout_s
        while pending := self._get("/fake/deliveries", {"limit": "1", "state": "pending"})["pending"]:
            if time.monotonic() > deadline:
                raise FakeControlError(f"{pending} webhooks were still undelivered after {timeout_s} s")
            time.sleep(_POLL_S)

    def reset(self) -> None:
        """Resets to an empty account in real time; the webhook endpoint of the command line stays."""
        self._post("/fake/reset", {})

    def _get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        return self._call("GET", path, params=query)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call("POST", path, json=body)

    def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **more)
            body: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise FakeControlError(f"{method} {path}: no answer from {self._http.base_url} ({error})") from error
        if response.is_error:
            raise FakeControlError(f"{method} {path}: {body['error']['message']}")
        return body
