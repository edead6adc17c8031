"""What may be held at once, and the answer to whoever finds it all taken.

What cannot be answered soon is refused at once. A queue without a bound would answer everybody too late, and grow.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.responses import JSONResponse

from paybill_runtime.errors import OverloadedError
from paybill_runtime.http.problems import problem
from paybill_runtime.telemetry import meter

log = logging.getLogger(__name__)

MAX_CONCURRENT_REQUESTS = 128
"""Requests that are worked on at once: as many as one transaction decides. More would only wait for one another."""
LOG_EVERY_S = 10.0
PROBES = ("/healthz", "/readyz")
PROBE_RESERVE = 8
"""Places beside the others, so that whoever asks whether the service is well hears it from a busy one, too."""
_OVERLOADED = "too many requests are being answered; send it again later"
_STOPPING = "this process is stopping; send it again, another one answers"
_REFUSED = meter.create_counter("paybill.requests.refused", "{request}", "Requests refused because too many came.")


class ConcurrencyLimit:
    """A number of them; whoever finds none is refused."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._why = _OVERLOADED
        self._log_at = 0.0

    def close(self) -> None:
        """Give out no more, because the process stops."""
        self._most, self._why = 0, _STOPPING

    @property
    def full(self) -> bool:
        """Whether all are taken."""
        return self._taken >= self._most

    def check(self, reserve: int = 0) -> None:
        """Raise OverloadedError when all are taken, and `more` beside them."""
        if self._taken >= self._most + reserve:
            raise OverloadedError(self._why)

    @contextmanager
    def slot(self, more: int = 0) -> Iterator[None]:
        """Hold one while the block runs. Raises OverloadedError."""
        self.check(more)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def overloaded_response(self) -> JSONResponse:
        """The answer. It is counted: a line for each would press the log as hard as the service."""
        _REFUSED.add(1)
        if self._most and time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + LOG_EVERY_S
            log.warning("more requests come than can be answered; some are refused")
        return problem(503, "overloaded", self._why)
