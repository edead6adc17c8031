"""Admission control: a concurrency limit, and the 503 response beyond it (load shedding).

A request beyond the limit is refused at once: an unbounded queue would answer every request too late.
"""

import logging
import time

from fastapi.responses import JSONResponse

from paybill_runtime.errors import OverloadedError
from paybill_runtime.http.problems import problem
from paybill_runtime.telemetry import meter

log = logging.getLogger(__name__)

MAX_CONCURRENT_REQUESTS = 128
"""Concurrent requests: as many as one group commit decides. More would only wait for each other."""
LOG_EVERY_S = 10.0
PROBES = ("/healthz", "/readyz")
PROBE_RESERVE = 8
"""Additional slots for probes, so that an overloaded service still answers them."""
_OVERLOADED = "too many concurrent requests; send it again later"
_STOPPING = "this process is stopping; send it again to reach another"
_REFUSED = meter.create_counter("paybill.requests.refused", "{request}", "Requests refused because too many came.")


class ConcurrencyLimit:
    """A number of slots for concurrent requests."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._reason = _OVERLOADED
        self._log_at = 0.0
        _REFUSED.add(0)

    def close(self) -> None:
        """Refuses all further requests, because the process stops."""
        self._limit, self._reason = 0, _STOPPING

    def check(self, reserve: int = 0) -> None:
        """Raises OverloadedError when all slots, and `reserve` more, are used."""
        if self._used >= self._limit + reserve:
            raise OverloadedError(self._reason)

    def acquire(self, reserve: int = 0) -> None:
        """Uses one slot until `release`. Raises OverloadedError."""
        self.check(reserve)
        self._used += 1

    def release(self) -> None:
        """Frees a slot."""
        self._used -= 1

    def overloaded_response(self) -> JSONResponse:
        """Returns the 503 response, and counts it: one log line for each would overload the log as well."""
        _REFUSED.add(1)
        if self._limit and time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + LOG_EVERY_S
            log.warning("the concurrency limit is reached; some requests are refused")
        return problem(503, "overloaded", self._reason)
