"""Closing windows of usage in time, telling the provider what was used in them, and asking what it has counted."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from paybill_contracts.envelope import Origin
from paybill_contracts.metering import UsageCountRequested, UsageReportRequested, UsageWindowClosed
from paybill_runtime.database.leases import Leases
from paybill_runtime.decisions.context import Edge
from paybill_runtime.decisions.unit_of_work import Moment, Unit
from paybill_runtime.errors import DatabaseUnavailableError, OverloadedError, line_of, reason
from paybill_runtime.jobs.effects import Job, Outcome, Refused
from paybill_runtime.messaging.streams import INTAKE, connect
from paybill_runtime.settings import read_secret
from sqlalchemy import text

from paybill_billing.providers.port import MeterReading, Meters, Providers
from paybill_billing.subscriptions.jobs.accounts import WORK, answers
from paybill_billing.subscriptions.tables import ACCOUNTS
from paybill_billing.usage.domain import closed_windows, usage
from paybill_billing.usage.domain.closed_windows import ClosedWindow, Status, existing
from paybill_billing.usage.domain.usage import Meter
from paybill_billing.usage.domain.windows import window_id
from paybill_billing.usage.tables import CLOSED_WINDOWS, METERS

log = logging.getLogger(__name__)

POLL_S = 0.5
REST_S = 5.0
ROUND = 64
_AWAY = (NatsError, JetStreamError, OSError, TimeoutError)

_SOONEST = text("SELECT min(due) FROM meters")
_DUE = text("SELECT id, state::text AS state FROM meters WHERE due <= :at ORDER BY due LIMIT :round")
_HEARD = text("SELECT coalesce(max(sequence), 0) FROM chassis.position WHERE stream = :stream")


class WindowCloser:
    """Closes windows whose time has come, once all is counted that reached INTAKE before.

    A timer would shut out what waited there while this service was away.
    """

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._client: Client | None = None

    async def run(self) -> None:
        """Look for what is due, for ever. Any replica may: who comes second finds nothing to close."""
        try:
            while True:
                try:
                    await self.tick(self._edge.now())
                except (DatabaseUnavailableError, OverloadedError, *_AWAY) as error:
                    log.warning("windows of usage close later: %s", reason(error))
                    await self.disconnect()
                    await asyncio.sleep(POLL_S)
                await asyncio.sleep(POLL_S)
        finally:
            await self.disconnect()

    async def tick(self, at: datetime) -> int:
        """Close what is due at this time; how many meters that were."""
        due = (await self._edge.rows(_SOONEST))[0][0]
        if due is None or due > _text(at):
            return 0
        await self._heard_all()
        closed = 0
        while rows := await self._edge.rows(_DUE, {"at": _text(at), "round": ROUND}):
            meters = [METERS.load(row.state) for row in rows]
            done = await asyncio.gather(*(self._close(meter, at) for meter in meters), return_exceptions=True)
            errors = [error for error in done if isinstance(error, BaseException)]
            closed += len(done) - len(errors)
            if errors:
                raise errors[0]
        return closed

    async def _heard_all(self) -> None:
        """Return when all that INTAKE holds at this moment has been decided about."""
        if self._client is None or not self._client.is_connected:
            settings = self._edge.settings
            password = read_secret(settings.nats_password_file)
            self._client = await connect(settings.nats_url, settings.nats_user, password, wait_s=REST_S)
        state = (await self._client.jetstream().stream_info(INTAKE)).state
        if not state.messages:
            return
        heard = 0
        while heard < state.last_seq:
            heard = (await self._edge.rows(_HEARD, {"stream": INTAKE}))[0][0]
            await asyncio.sleep(POLL_S / 10)

    async def _close(self, meter: Meter, at: datetime) -> None:
        ids = [window_id(meter.id, window.start) for window in meter.windows if window.closes_at <= at]
        cause = f"timer:{METERS.kind}/{meter.id}"

        def decide(unit: Unit, _: Moment) -> None:
            found = unit.get(METERS, meter.id)
            if found is None:
                return
            # Those that were opened since are not loaded; they are found in the next round.
            closing = [w for w in found.windows if w.closes_at <= at and window_id(found.id, w.start) in ids]
            unit.record(METERS, found.id, usage.advance(found, closing))
            account = unit.get(ACCOUNTS, found.tenant_id)
            for window in closing:
                id_ = window_id(found.id, window.start)
                unit.record(CLOSED_WINDOWS, id_, closed_windows.close(found, window, account))

        await self._edge.decide(
            Origin(cause, cause, "service:billing", ""),
            decide,
            writes=[METERS.key(meter.id), *map(CLOSED_WINDOWS.key, ids)],
            reads=[ACCOUNTS.key(meter.tenant_id)],
        )

    async def disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(*_AWAY):
                await client.close()


async def close_windows(edge: Edge, _: Leases) -> None:
    """The service's loop that closes windows."""
    await WindowCloser(edge).run()


def _text(at: datetime) -> str:
    """As the generated column has it, which compares in the order of time."""
    return at.replace(tzinfo=None).isoformat()


def _failed(job: Job[Any], why: str) -> Outcome:
    id_, line = job.event.window_id, line_of(why)

    def decide(unit: Unit, _: Moment) -> None:
        unit.record(
            CLOSED_WINDOWS, id_, closed_windows.report_failed(existing(unit.get(CLOSED_WINDOWS, id_), id_), line)
        )

    return Outcome(decide, writes=[CLOSED_WINDOWS.key(id_)])


async def report_usage(job: Job[Any], providers: Providers) -> AsyncIterator[Outcome]:
    """Have the provider bill what was used. What it has counted already is not sent again.

    Providers forget keys (Stripe after a day), so that the key alone does not keep a late attempt from counting twice.
    """
    id_ = job.event.window_id
    window = await _window(job)
    if window.status is not Status.DUE or window.provider_meter is None:
        return
    with answers():
        meters, customer = await _at_provider(job, providers, window)
        counted = await meters.reported(window.provider_meter, customer, window.start, window.end)
        if counted not in {0, window.value}:
            raise Refused(
                f"{window.provider} has counted {counted} in this window without us, where {window.value} was used: "
                f"see who reports to its meter {window.provider_meter}"
            )
        if counted != window.value:
            reading = MeterReading(customer, window.provider_meter, window.value, window.at)
            await meters.report(reading, window.report_key)

    def decide(unit: Unit, _: Moment) -> None:
        found = existing(unit.get(CLOSED_WINDOWS, id_), id_)
        unit.record(CLOSED_WINDOWS, id_, closed_windows.reported(found, customer))

    yield Outcome(decide, writes=[CLOSED_WINDOWS.key(id_)], last=True)


WORK.effect(UsageWindowClosed, attempts=8, failed=_failed)(report_usage)
WORK.effect(UsageReportRequested, attempts=8, failed=_failed)(report_usage)


def _uncounted(job: Job[UsageCountRequested], why: str) -> Outcome:
    return _answer(job.event.window_id, None, line_of(why))


@WORK.effect(UsageCountRequested, attempts=3, failed=_uncounted)
async def count_at_provider(job: Job[UsageCountRequested], providers: Providers) -> AsyncIterator[Outcome]:
    """Ask the provider what it has counted in a window."""
    window = await _window(job)
    if window.provider_meter is None:
        return
    with answers():
        meters, customer = await _at_provider(job, providers, window)
        counted = await meters.reported(window.provider_meter, customer, window.start, window.end)
    yield _answer(window.id, counted, None, last=True)


def _answer(id_: str, quantity: int | None, why: str | None, *, last: bool = False) -> Outcome:
    def decide(unit: Unit, _: Moment) -> None:
        found = existing(unit.get(CLOSED_WINDOWS, id_), id_)
        unit.record(CLOSED_WINDOWS, id_, closed_windows.record_count(found, quantity, why))

    return Outcome(decide, writes=[CLOSED_WINDOWS.key(id_)], last=last)


async def _window(job: Job[Any]) -> ClosedWindow:
    """The window that any of these facts is about."""
    found = await job.state(CLOSED_WINDOWS, job.event.window_id)
    return existing(found, job.event.window_id)


async def _at_provider(job: Job[Any], providers: Providers, window: ClosedWindow) -> tuple[Meters, str]:
    """The provider's meters, and the tenant's name there. Raises Refused when it has none."""
    provider = providers[window.provider]
    if not isinstance(provider, Meters):
        raise Refused(f"the provider {window.provider} bills no usage; take it out of `provider_meters`")
    account = await job.state(ACCOUNTS, window.tenant_id)
    if account is None or account.customer is None or account.provider != window.provider:
        raise Refused(f"{window.tenant_id} is no customer of {window.provider}")
    return provider, account.customer
