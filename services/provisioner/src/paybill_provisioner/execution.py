"""Execution of a plan: its steps in the order of their needs, those without order between them side by side."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from paybill_contracts.environment_plans import Step, StepAction
from paybill_runtime import clock
from paybill_runtime.jobs.kinds import RetryAfter

from paybill_provisioner.domain.building import Progress
from paybill_provisioner.domain.drift import with_accepted
from paybill_provisioner.domain.environment_state import Environment, intent_key
from paybill_provisioner.domain.steps import may_begin
from paybill_provisioner.domain.unfinished import may_be_deleted
from paybill_provisioner.drivers import Done, Driver, Pending, Result, Site

GROUP_WITHIN_S = 0.1
"""Steps that end within this time are recorded in one fact."""
CHECK_AFTER_S = 0.1
"""Steps begin without another check this long after the last one."""

CHECKS = 5
"""Searches for a resource whose create has an unknown outcome, in the driver's time to settle."""


class StepError(Exception):
    """A step failed. The cause is the driver's error."""

    def __init__(self, address: str, cause: Exception) -> None:
        super().__init__(f"{address}: {cause}")
        self.address = address
        self.cause = cause


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """An earlier attempt may have created the resource, and it is not visible yet."""

    check_after_s: float


MayBegin = Callable[[], Awaitable[bool]]
"""Returns False once no other step of the plan may begin, such as for a tenant that was suspended or leaves."""


class Execution:
    """The remaining steps of an environment's plan. Logins are built closed.

    token: prefix of the steps' idempotency tokens, the same at every attempt.

    The outcome of a create that another attempt intended is unknown. A create begins within the driver's time to settle
    after its intent, and is visible within the same time again: until then it is searched for. Only then is the intent
    recorded again, and the resource created. One that an earlier plan may have deleted is not searched for before a
    deletion that was under way has taken effect.
    """

    def __init__(
        self,
        driver: Driver,
        environment: Environment,
        token: str,
        may_begin: MayBegin | None = None,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._driver = driver
        self._environment = environment
        self._token = token
        self._may_begin = may_begin
        self._checked_at = now()
        self._stopped = False
        self._outputs = dict(environment.outputs)
        self._waiting = list(environment.remaining)
        self._now = now
        self._running: dict[asyncio.Task[Result | _Unsettled], Step] = {}
        self._intended: dict[str, datetime] = {}
        self._pending: list[Step] = []
        self.check_after_s: float | None = None
        """Time until the first of the pending operations or unknown outcomes is checked again; None without any."""
        self._error: Exception | None = None

    @property
    def is_complete(self) -> bool:
        """True when no step remains."""
        return not (self._waiting or self._running or self._pending or self._error)

    async def run(self) -> AsyncGenerator[Progress, None]:
        """Applies the steps, and yields progress; the caller has recorded it when the next one is requested.

        After an error no other step begins, and it is raised when those that run have ended: RetryAfter when the plan
        has to wait, StepError for any other one. A refusal is raised rather than a wait.
        """
        progress, since = Progress(), self._now()
        try:
            while True:
                await self._check()
                if intended := self._to_intend():
                    progress.intended |= dict.fromkeys(intended, self._now())
                    yield progress
                    self._intended |= progress.intended
                    progress, since = Progress(), self._now()
                self._start()
                if not self._running:
                    break
                left = max(GROUP_WITHIN_S - self._since_s(since), 0) if progress else None
                done, _ = await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not progress:
                    since = self._now()
                for task in [each for each in self._running if each in done]:
                    self._finish(task, progress)
                if progress and self._since_s(since) >= GROUP_WITHIN_S:
                    yield progress
                    progress = Progress()
            if progress:
                yield progress
            if self._error is not None:
                raise self._error
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _check(self) -> None:
        """Stops the beginning of steps when the plan is paused, or the tenant leaves."""
        if self._may_begin is not None and self._waiting and self._since_s(self._checked_at) >= CHECK_AFTER_S:
            checked_at = self._now()
            self._stopped = self._stopped or not await self._may_begin()
            self._checked_at = checked_at

    def _ready(self) -> list[Step]:
        """Returns the waiting steps whose needs are met."""
        if self._error is not None or self._stopped:
            return []
        open_steps = [*self._waiting, *self._running.values(), *self._pending]
        return [step for step in self._waiting if may_begin(step, open_steps)]

    def _to_intend(self) -> list[str]:
        """Returns the steps of which a repetition could create a second resource, unless an intent is recorded."""
        return [
            step.address
            for step in self._ready()
            if self._needs_intent(step) and not (self._settles_in_s(step) or self._leaves_in_s(step))
        ]

    def _needs_intent(self, step: Step) -> bool:
        changes = step.after is None or (step.action is StepAction.UPDATE and step.before is not None)
        known = step.key in self._environment.operations or step.address in self._intended
        return not (changes or known or step.resource.kind in self._driver.unique_names)

    def _settles_in_s(self, step: Step) -> float:
        """Returns the time in which a create that another attempt intended can still become visible."""
        intended_at = self._environment.intended.get(intent_key(step.resource))
        if intended_at is None:
            return 0.0
        return max(2 * self._driver.settled_after_s - self._since_s(intended_at), 0.0)

    def _leaves_in_s(self, step: Step) -> float:
        """Returns the time in which a deletion by an earlier plan can still take effect. A unique name needs none."""
        planned_at, driver = self._environment.planned_at, self._driver
        if step.after is None or planned_at is None or step.after.kind in driver.unique_names:
            return 0.0
        if not may_be_deleted(self._environment, step.after):
            return 0.0
        return max(driver.settled_after_s - self._since_s(planned_at), 0.0)

    def _since_s(self, at: datetime) -> float:
        return (self._now() - at).total_seconds()

    def _start(self) -> None:
        for step in self._ready():
            self._waiting.remove(step)
            self._running[asyncio.create_task(self._apply(step))] = step

    async def _apply(self, step: Step) -> Result | _Unsettled:
        site = Site(self._environment, self._environment.known_resources, self._outputs)
        operation = self._environment.operations.get(step.key)
        if operation is not None:
            return await self._driver.poll(operation)
        if step.after is None:
            if left_s := self._settles_in_s(step):
                return _Unsettled(left_s)
            return await self._driver.delete(step.resource, site)
        if step.action in {StepAction.UPDATE, StepAction.REBUILD} and step.before is not None:
            return await self._driver.update(step.before, with_accepted(self._environment, step.after), site)
        if left_s := self._leaves_in_s(step):
            return _Unsettled(left_s)
        unique = step.after.kind in self._driver.unique_names
        if not unique or step.action is StepAction.ADOPT:
            found = await self._driver.find(step.after, site)
            if found is not None:
                return found
        intended_at = self._intended.get(step.address)
        if not unique and (intended_at is None or self._since_s(intended_at) > self._driver.settled_after_s):
            return _Unsettled(self._driver.settled_after_s / CHECKS)
        return await self._driver.create(step.after, site, f"{self._token}/{step.address}")

    def _finish(self, task: "asyncio.Task[Result | _Unsettled]", progress: Progress) -> None:
        step = self._running.pop(task)
        error = task.exception()
        if isinstance(error, RetryAfter):
            self._error = self._error or RetryAfter(error.after_s, f"{step.address}: {error}", step.address)
            return
        if isinstance(error, Exception):
            failed = StepError(step.address, error)
            if not isinstance(self._error, StepError):
                self._error = failed
            return
        result = task.result()
        if not isinstance(result, Done):
            if isinstance(result, Pending):
                progress.pending[step.key] = result.reference
            self._pending.append(step)
            self.check_after_s = min(result.check_after_s, self.check_after_s or result.check_after_s)
        elif step.after is None:
            progress.removed.append(step.resource)
        else:
            self._outputs[step.address] = result.outputs
            progress.built[step.address] = result.outputs
