"""The one Stripe account of this process: its resources, its clock and the request in progress."""

import string
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random, SystemRandom

from paybill_stripe_fake.errors import ResourceMissingError
from paybill_stripe_fake.store import Resource, Store
from paybill_stripe_fake.traffic import Traffic

_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTHS = {"cus": 14, "prod": 14, "req": 14, "si": 14, "whsec": 32, "cs_test": 58}
_DAY_S = 86_400
_ids: Random = SystemRandom()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries after a failed renewal.

    after_days: delay from each failed attempt to the next one.
    finally_status: status of the subscription after the last attempt failed.
    """

    after_days: tuple[float, ...] = (3, 5, 7)
    finally_status: str = "canceled"

    def next_attempt(self, attempts: int, now: int) -> int | None:
        """Returns the time of the next attempt, or None when all retries are used up."""
        return now + round(self.after_days[attempts - 1] * _DAY_S) if attempts <= len(self.after_days) else None


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """The API request that caused an event, as events show it."""

    id: str | None = None
    idempotency_key: str | None = None


@dataclass(slots=True)
class Account:
    """State that every handler works with; it changes only inside `work`.

    finalize_after_s: time from the end of a period to the finalisation of its invoice; about an hour at Stripe.
    base_url: address under which people reach the checkout page.
    allow_remote: whether webhooks may leave this machine.
    static_secrets: sign for the endpoint of the command line. static_payload: its payload style.
    committed: called after a change, so that the sender checks for pending webhooks.
    traffic: counts, limits and faults of the API calls.
    real_time: source of real time; a constant one leaves the clock to `set_clock` alone.
    """

    store: Store
    base_url: str = "http://127.0.0.1"
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    finalize_after_s: int = 0
    allow_remote: bool = False
    static_secrets: tuple[str, ...] = ()
    static_payload: str = "snapshot"
    committed: Callable[[], None] = lambda: None
    traffic: Traffic = field(default_factory=Traffic)
    request: ApiRequest = field(default_factory=ApiRequest)
    real_time: Callable[[], float] = time.time
    _instant: int | None = None

    @contextmanager
    def work(self, request: ApiRequest | None = None) -> Iterator[None]:
        """Runs one transaction at one instant."""
        self.request = request or ApiRequest()
        self._instant = int(self.real_time())
        try:
            with self.store.transaction():
                yield
        finally:
            self._instant = None
            self.request = ApiRequest()
            self.committed()

    def now(self) -> int:
        """Returns the account's time in Unix seconds: real time plus the offset of the clock."""
        clock = self.store.find("setting", "clock") or {"offset_s": 0}
        return (int(self.real_time()) if self._instant is None else self._instant) + int(clock["offset_s"])

    def set_clock(self, to: int) -> None:
        """Sets the account's time to `to`; it advances with real time from there."""
        if (step := to - self.now()) != 0:
            clock = self.store.find("setting", "clock") or {"offset_s": 0}
            self.store.put("setting", "clock", {"offset_s": int(clock["offset_s"]) + step})

    def finalization_delay_s(self) -> int:
        """Returns the time from the end of a period to the finalisation of its invoice."""
        setting = self.store.find("setting", "finalization")
        return self.finalize_after_s if setting is None else int(setting["after_s"])

    def get(self, kind: str, identifier: str, param: str | None = None) -> Resource:
        """Returns the resource, or raises Stripe's error; `param` names the parameter with the id, None for the URL."""
        found = self.store.find(kind, identifier)
        if found is None or (found.get("deleted") and param):
            raise ResourceMissingError(kind.replace("_", " ").replace(".", " "), identifier[:200], param=param)
        return found

    def put(self, resource: Resource) -> Resource:
        """Stores a resource under its own kind and id."""
        self.store.put(resource["object"], resource["id"], resource)
        return resource


def new_id(prefix: str) -> str:
    """Returns an id in Stripe's style, such as `cus_8sJk2…`."""
    length = _ID_LENGTHS.get(prefix, 24)
    return f"{prefix}_" + "".join(_ids.choices(_ALPHABET, k=length))


def repeat_ids(seed: str) -> None:
    """Makes the ids of this process repeatable, for tests that repeat a history."""
    global _ids  # noqa: PLW0603  # ids are made everywhere, without the account
    _ids = Random(seed)  # noqa: S311  # the ids of a fake protect nothing
