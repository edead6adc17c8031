"""Counts, limits, delays and fails API calls; in real time, and never stored in the state file."""

import time
from collections import deque
from dataclasses import dataclass, field

from paybill_stripe_fake.errors import InjectedError, RateLimitError
from paybill_stripe_fake.forms import Params
from paybill_stripe_fake.store import Resource

_WINDOW_S = 1.0
_MAX_LIMIT = 100_000
_MAX_FAILURES = 1_000_000
_MAX_DELAY_S = 60
_NO_FAULTS: Resource = {
    "fail_next": 0,
    "status": 500,
    "path": "/",
    "after": False,
    "retry_after_s": None,
    "delay_s": 0.0,
}


@dataclass(slots=True)
class _Endpoint:
    """Calls of one method and path pattern; `admitted` are those admitted within the last second."""

    total: int = 0
    refused: int = 0
    max_per_s: int = 0
    attempts: deque[float] = field(default_factory=deque)
    admitted: deque[float] = field(default_factory=deque)


class Traffic:
    """Admits every call to /v1 and /v2 of the API.

    per_endpoint, per_account: calls admitted within any one second; None for no limit.
    """

    def __init__(self, per_endpoint: int | None = None, per_account: int | None = None) -> None:
        self._started_with = (per_endpoint, per_account)
        self.per_endpoint, self.per_account = self._started_with
        self.faults = dict(_NO_FAULTS)
        self._endpoints: dict[tuple[str, str], _Endpoint] = {}
        self._account = _Endpoint()

    def admit(self, method: str, pattern: str, path: str) -> Resource:
        """Counts a call and returns the faults to apply; raises if a limit is exceeded or a failure is injected."""
        now = time.monotonic()
        endpoint = self._endpoints.setdefault((method, pattern), _Endpoint())
        for counted, limit, reason in (
            (endpoint, self.per_endpoint, "endpoint-rate"),
            (self._account, self.per_account, "global-rate"),
        ):
            _drop_old(counted.admitted, now)
            if limit is not None and len(counted.admitted) >= limit:
                _count(endpoint, now)
                _count(self._account, now)
                endpoint.refused += 1
                self._account.refused += 1
                raise RateLimitError(reason, counted.admitted[0] + _WINDOW_S - now)
        for counted in (endpoint, self._account):
            _count(counted, now)
            counted.admitted.append(now)
        applies = self.faults["fail_next"] > 0 and path.startswith(self.faults["path"])
        if applies:
            self.faults["fail_next"] -= 1
        if applies and not self.faults["after"]:
            raise InjectedError(self.faults["status"], self.faults["retry_after_s"])
        return {"lost": applies, "delay_s": self.faults["delay_s"] if path.startswith(self.faults["path"]) else 0.0}

    def lost_response(self) -> InjectedError:
        """Returns the error that replaces the response of a call that was carried out."""
        return InjectedError(self.faults["status"], self.faults["retry_after_s"])

    def report(self) -> Resource:
        """Returns counts, total and by endpoint; `max_per_s` is the peak of any one second, refused calls included."""
        by_endpoint = [
            {"method": method, "path": pattern, **_counts(endpoint)}
            for (method, pattern), endpoint in sorted(self._endpoints.items())
        ]
        return {**_counts(self._account), "endpoints": by_endpoint}

    def reset_counts(self) -> None:
        """Resets the counts."""
        self._endpoints.clear()
        self._account = _Endpoint()

    def reset(self) -> None:
        """Restores the initial state: no faults, the limits of the command line, zero counts."""
        self.faults = dict(_NO_FAULTS)
        self.per_endpoint, self.per_account = self._started_with
        self.reset_counts()

    def limits(self) -> Resource:
        """Returns the limits in force."""
        return {"per_endpoint": self.per_endpoint, "per_account": self.per_account}

    def set_limits(self, params: Params) -> Resource:
        """Sets `per_endpoint` or `per_account`, in calls per second; 0 for none."""
        per_endpoint, per_account = (params.integer(key, most=_MAX_LIMIT) for key in ("per_endpoint", "per_account"))
        params.finish()
        self.per_endpoint = self.per_endpoint if per_endpoint is None else per_endpoint or None
        self.per_account = self.per_account if per_account is None else per_account or None
        return self.limits()

    def set_faults(self, params: Params) -> Resource:
        """Sets failures and delays of calls; an absent parameter is reset to its default.

        fail: how many of the next calls. status: 400, 429, or 500 to 599. path: prefix of the affected paths.
        after: carried out first, so that only the response is lost. retry_after_s: a header of the refusal.
        delay_s: delay of every call before it is carried out.
        """
        delay = params.decimal("delay_s")
        status = params.integer("status", least=400, most=599)
        faults = {
            "fail_next": params.integer("fail", most=_MAX_FAILURES) or 0,
            "status": 500 if status is None or (status < 500 and status not in {400, 429}) else status,  # noqa: PLR2004 - HTTP statuses
            "path": params.text("path", longest=500) or "/",
            "after": params.flag("after") or False,
            "retry_after_s": params.integer("retry_after_s", most=3600),
            "delay_s": min(float(delay or 0), _MAX_DELAY_S),
        }
        params.finish()
        self.faults = faults
        return dict(faults)


def _count(counted: _Endpoint, now: float) -> None:
    _drop_old(counted.attempts, now)
    counted.attempts.append(now)
    counted.total += 1
    counted.max_per_s = max(counted.max_per_s, len(counted.attempts))


def _drop_old(times: deque[float], now: float) -> None:
    while times and times[0] <= now - _WINDOW_S:
        times.popleft()


def _counts(counted: _Endpoint) -> Resource:
    return {"total": counted.total, "refused": counted.refused, "max_per_s": counted.max_per_s}
