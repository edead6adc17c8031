"""Jobs of the webhooks: the sync of each provider object, once for all of its stored messages, and their cleanup."""

import logging
from datetime import timedelta
from functools import partial

from paybill_contracts.errors import DomainError
from paybill_contracts.validation_messages import plain_message
from paybill_runtime import clock
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.job_rows import Priority
from paybill_runtime.errors import DatabaseUnavailableError, LeaseLostError, OverloadedError
from paybill_runtime.jobs.kinds import AttemptFailedError, ClaimedJob, Kind, RetryAfter
from pydantic import ValidationError

from paybill_billing.providers.port import (
    Inbound,
    MalformedObjectError,
    Provider,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from paybill_billing.providers.sync_queue import CONCURRENCY, LEASE, kind_of
from paybill_billing.webhooks.domain import StaleReadError, UnknownCustomerError
from paybill_billing.webhooks.jobs.subscription_sync import SubscriptionSync
from paybill_billing.webhooks.tables import DELETE_BODIES, DELETE_DONE

log = logging.getLogger(__name__)

BODY_RETENTION = timedelta(days=30)
CLEANUP_INTERVAL_S = 3600.0
DELETED_AT_ONCE = 5000
_backoff_s = partial(clock.backoff_s, longest_s=3600.0)


class ProviderSync:
    """Syncs the objects of one provider. inbound: None for a provider that sends no messages."""

    def __init__(
        self, context: ServiceContext, provider_name: str, provider: Provider, inbound: Inbound | None
    ) -> None:
        self._name = provider_name
        self._sync = SubscriptionSync(context, provider_name, provider, inbound)

    def kind(self) -> Kind:
        """Returns the kind of its jobs. Two processes together would exceed the provider's rate limit."""
        return Kind(kind_of(self._name), self._run, concurrency=CONCURRENCY, exclusive=True, backoff_s=_backoff_s)

    async def _run(self, job: ClaimedJob) -> float | None:
        try:
            await self._sync.run(job)
        except StaleReadError as error:
            log.info("%s is fetched again: %s", job.key, error)
            return 0.0
        except (DatabaseUnavailableError, LeaseLostError, OverloadedError):
            raise
        except UnknownCustomerError as error:
            if await self._sync.dismissed(job, error.customer):
                return None
            raise AttemptFailedError(str(error), detail=error.customer) from error
        except ProviderUnavailableError as error:
            log.warning("the sync of %s waits: %s", job.key, error)
            raise RetryAfter(error.after_s, str(error)) from error
        except (DomainError, ProviderRefusedError, MalformedObjectError, ValidationError) as error:
            reason = _summary(error)
            log.error("the sync of %s is refused: %s", job.key, reason)  # noqa: TRY400  # the summary is enough
            raise AttemptFailedError(reason) from error
        except Exception as error:
            log.exception("the sync of %s failed", job.key)
            raise AttemptFailedError(_summary(error)) from error
        return None


def cleanup(context: ServiceContext) -> Kind:
    """Returns the kind of the job that deletes old bodies and messages."""

    async def run(_: ClaimedJob) -> float:
        await delete_old_bodies(context)
        await delete_old_messages(context)
        return CLEANUP_INTERVAL_S

    return Kind("delete_webhook_bodies", run, LEASE, Priority.BULK, recurring=True)


async def delete_old_bodies(context: ServiceContext) -> None:
    """Deletes bodies after 30 days, because they hold personal data; the rest of the message stays."""
    async with context.database.transaction() as connection:
        deleted = await connection.execute(DELETE_BODIES, {"before": context.now() - BODY_RETENTION})
    if deleted.rowcount:
        log.info("the bodies of %d webhooks are deleted", deleted.rowcount)


async def delete_old_messages(context: ServiceContext) -> None:
    """Deletes processed messages after the retention, a part at a time."""
    values = {
        "before": context.now() - timedelta(days=context.settings.webhook_retention_days),
        "limit": DELETED_AT_ONCE,
    }
    while True:
        async with context.database.transaction() as connection:
            deleted = (await connection.execute(DELETE_DONE, values)).rowcount
        if deleted < DELETED_AT_ONCE:
            return


def _summary(error: Exception) -> str:
    """Returns the error for operators, without the provider's data that a ValidationError quotes."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {plain_message(item)}" for item in error.errors()[:3])
    return f"{type(error).__name__}: {error}"[:400]
