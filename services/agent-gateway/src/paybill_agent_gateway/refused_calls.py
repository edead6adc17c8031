"""Calls that are refused before they have a run: they cost no budget of a run, so a process bounds their number."""

from datetime import date, datetime

from paybill_contracts.envelope import Origin
from paybill_contracts.errors import DomainError, RetryLaterError
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork

from paybill_agent_gateway.domain.calls import CallCaller
from paybill_agent_gateway.domain.refusals import BudgetExceededError, FrozenError
from paybill_agent_gateway.domain.tenants import TenantNotRunningError

MAX_REFUSED = 1000
"""Refused calls of an agent on a day (UTC), in one process. Further ones are refused without a fact."""
_OF_OTHERS = (RetryLaterError, FrozenError, TenantNotRunningError)


class RefusedCalls:
    """Numbers of refused calls of today, by agent."""

    def __init__(self) -> None:
        self._day: date | None = None
        self._numbers: dict[str, int] = {}

    def require(self, caller: CallCaller, now: datetime) -> None:
        """Raises BudgetExceededError for an agent with too many refused calls today."""
        if self._day == now.date() and self._numbers.get(caller.agent_id or "", 0) >= MAX_REFUSED:
            raise BudgetExceededError(
                f"{MAX_REFUSED} calls without a run were refused today; call again tomorrow (UTC)"
            )

    def count(self, caller: CallCaller, error: DomainError, now: datetime) -> None:
        """Counts a refused call of an agent; one that may succeed later without a change is none."""
        if isinstance(error, _OF_OTHERS):
            return
        if self._day != now.date():
            self._day, self._numbers = now.date(), {}
        if caller.agent_id is not None:
            self._numbers[caller.agent_id] = self._numbers.get(caller.agent_id, 0) + 1

    async def refuse(
        self,
        context: ServiceContext,
        caller: CallCaller,
        origin: Origin,
        target: str,
        error: DomainError,
        verb: str = "act",
    ) -> DomainError:
        """Records that a call is refused which cannot be decided about, as a decision would, and counts it.

        Returns the error of the call: the given one, or that of a bound. target: what was called. caller: with an empty
        tenant_id for a person or a program whose call names no tenant.
        """

        def decide(_: UnitOfWork, __: DecisionContext) -> None:
            raise error

        try:
            self.require(caller, context.now())
            await context.decide(origin, decide, verb=verb, target=target, tenant_id=caller.tenant_id or None)
        except DomainError as refused:
            if refused is error:
                self.count(caller, error, context.now())
            return refused
        return error
