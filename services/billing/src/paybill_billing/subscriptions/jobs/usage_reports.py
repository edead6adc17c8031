"""Ports to the context of usage, for effects that make the provider end or change a subscription."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from paybill_runtime.jobs.effects import Job, Outcome


class ReportUsage(Protocol):
    """Reports the usage of a tenant to its provider before an effect calls the provider."""

    def __call__(
        self, job: Job[Any], tenant_id: str, provider: str, cause: str, subscription_id: str | None = None
    ) -> AsyncIterator[Outcome]:
        """Yields the outcomes of the request, and raises RetryAfter until the usage is reported.

        cause: names the effect's change. subscription_id: the one that changes; None for all. Raises Refused when the
        provider refused a report.
        """


class UnreportedUsage(Protocol):
    """Reads the usage of a tenant that would be reported before a change now, and reports nothing."""

    async def __call__(self, job: Job[Any], tenant_id: str, provider: str, subscription_id: str) -> Mapping[str, int]:
        """Returns the units by the provider's meter. Raises Refused and RetryAfter as `ReportUsage` does."""
