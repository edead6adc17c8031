"""Write probes: test that PostgreSQL and the intake stream take a write, not only that they answer."""

import asyncio

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from paybill_runtime import clock
from paybill_runtime.database.pool import Database
from paybill_runtime.errors import ConfigurationError, DatabaseUnavailableError, reason
from paybill_runtime.messaging.broker import Broker
from paybill_runtime.messaging.streams import INTAKE

INTERVAL_S = 60.0
"""Interval of the tests in the background: each of them is one synced write."""
RETRY_S = 2.0
"""The same while a part takes no write, so that a service is ready again soon after a repair."""
MIN_AGE_S = 2.0
"""Results that are younger answer a request: callers cannot cause more writes than one in this time."""
TIMEOUT_S = 4.0
_WRITE = text(
    "INSERT INTO chassis.write_probe (service, written_at) VALUES (:service, now()) "
    "ON CONFLICT (service) DO UPDATE SET written_at = excluded.written_at"
)


def intake_probe(service: str) -> str:
    """Returns the subject of the probe messages of a service, to which only this service may publish.

    No publisher has the name of a service. The service drops its own probe messages.
    """
    return f"paybill.intake.{service}.probe"


class WriteProbes:
    """Tests of one process. EVENTS has none: nothing in it can be removed.

    has_intake: the service consumes INTAKE. results: of the last test, by part: `ok`, or the problem.
    The parts are keys of the health checks.
    """

    def __init__(self, service: str, database: Database, broker: Broker, *, has_intake: bool) -> None:
        self._service = service
        self._database = database
        self._broker = broker
        self._has_intake = has_intake
        self._testing = asyncio.Lock()
        self._failed = asyncio.Event()
        self._tested_at = -MIN_AGE_S
        self.results: dict[str, str] = {}

    async def run(self) -> None:
        """Tests again and again, until cancelled."""
        while True:
            await self.test()
            if self._failed.is_set():
                await asyncio.sleep(RETRY_S)
            else:
                await clock.wait_for_event(self._failed, INTERVAL_S)  # a request may be the first to find a failure

    async def test(self) -> None:
        """Tests now; does nothing while the results are younger than `MIN_AGE_S`."""
        now = asyncio.get_running_loop().time
        async with self._testing:
            if now() < self._tested_at + MIN_AGE_S:
                return
            found = {"database": self._database_problem()}
            if self._has_intake and self._broker.connected.is_set():
                found["intake_stream"] = self._intake_problem()
            problems = await asyncio.gather(*found.values())
            self.results = {part: problem or "ok" for part, problem in zip(found, problems, strict=True)}
            self._tested_at = now()
            if any(problems):
                self._failed.set()
            else:
                self._failed.clear()

    async def _database_problem(self) -> str:
        """Writes the row of this service."""
        try:
            async with asyncio.timeout(TIMEOUT_S), self._database.transaction() as connection:
                await connection.execute(_WRITE, {"service": self._service})
        except TimeoutError:
            return f"PostgreSQL confirms no write within {TIMEOUT_S:.0f} s"
        except DatabaseUnavailableError as error:
            return str(error)
        except (DBAPIError, ConfigurationError) as error:
            return f"PostgreSQL takes no write ({reason(error)})"
        return ""

    async def _intake_problem(self) -> str:
        """Publishes a probe message. It has a header: an empty message without one would end a consumer's request."""
        self._broker.last_error = ""
        try:
            jetstream = self._broker.client.jetstream()
            subject, headers = intake_probe(self._service), {"pb-probe": self._service}
            await jetstream.publish(subject, b"", timeout=TIMEOUT_S, stream=INTAKE, headers=headers)
        except TimeoutError:
            more = f" ({self._broker.last_error})" if self._broker.last_error else ""
            return f"{INTAKE} confirms no write within {TIMEOUT_S:.0f} s{more}"
        except (NatsError, JetStreamError, OSError) as error:
            return f"{INTAKE} takes no write ({reason(error)})"
        return ""
