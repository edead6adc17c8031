"""Sync of what can charge a customer later without a subscription, once its tenant has left."""

from collections.abc import Mapping
from functools import partial

from paybill_contracts.accounts import LeftoverAction, LeftoverEnded, LeftoverFound
from paybill_contracts.envelope import Origin
from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.http.listing import load_state

from paybill_billing.incidents import INCIDENTS
from paybill_billing.providers.port import ChargeLister, Provider
from paybill_billing.providers.sync_queue import CUSTOMER, enqueue_sync
from paybill_billing.subscriptions.domain import accounts, leftovers
from paybill_billing.subscriptions.domain.accounts import Account
from paybill_billing.subscriptions.domain.entitling import ENTITLING
from paybill_billing.subscriptions.tables import ACCOUNT_OF_CUSTOMER, ACCOUNTS, SUBSCRIPTIONS_OF_TENANT
from paybill_billing.webhooks.tables import SyncTask, finish


class CustomerSync:
    """Records the checkouts, schedules and invoice items of the customers of one provider whose tenants left."""

    def __init__(self, context: ServiceContext, name: str, provider: Provider) -> None:
        self._context = context
        self._name = name
        self._provider = provider

    async def run(self, task: SyncTask, customer: str, origin: Origin, leases: Mapping[str, int]) -> None:
        """Fetches what can charge the customer, and records what was found or has ended.

        A customer without an account is not ours. Nothing is fetched for a tenant that has not left. The checkout for
        the return of a tenant is closed when it has access.
        """
        end = partial(finish, task, self._context.now())
        rows = await self._context.rows(ACCOUNT_OF_CUSTOMER, {"customer": f"{self._name}/{customer}"})
        account = await load_state(self._context, ACCOUNTS, rows[0].id) if rows else None
        if account is not None:
            await self._close_checkout(account)
        is_concerned = account is not None and (account.is_gone or account.charges)
        if account is None or not is_concerned or not isinstance(self._provider, ChargeLister):
            await self._context.decide(origin, _no_events, extra_statements=end, leases=leases)
            return
        found, tenant_id = await self._provider.charges_of(customer), account.id

        def decide(unit: UnitOfWork, at: DecisionContext) -> None:
            current = unit.get(ACCOUNTS, tenant_id)
            if current is None:
                return
            events = leftovers.on_charges_fetched(current, customer, found, self._context.settings.leftovers)
            unit.record(ACCOUNTS, tenant_id, events)
            for event in events:
                match event:
                    case LeftoverFound(action=LeftoverAction.REPORT):
                        INCIDENTS.open(unit, leftovers.finding_of(event), at.now)
                    case LeftoverEnded():
                        subject = leftovers.subject_of(event.subscription, event.kind)
                        reason = "it is gone from the provider"
                        INCIDENTS.close(unit, leftovers.LEFTOVER, subject, reason, at.now)

        # A charge may have been recorded since the account was read: its incident is not closed without its key.
        subjects = {leftovers.subject_of(each.id, each.kind) for each in (*found, *account.charges)}
        await self._context.decide(
            origin,
            decide,
            writes=[
                ACCOUNTS.key(tenant_id),
                *(INCIDENTS.key_of(leftovers.LEFTOVER, subject) for subject in sorted(subjects)),
            ],
            extra_statements=end,
            leases=leases,
        )

    async def _close_checkout(self, account: Account) -> None:
        unused = leftovers.unused_checkout(account)
        if unused is None or not isinstance(self._provider, ChargeLister):
            return
        rows = await self._context.rows(SUBSCRIPTIONS_OF_TENANT, {"tenant_id": account.id})
        if any(row.access in ENTITLING for row in rows):
            await self._provider.remove_charge(unused)

    async def record_expired_checkout(
        self, task: SyncTask, customer: str, checkout: str, origin: Origin, leases: Mapping[str, int]
    ) -> None:
        """Records that a checkout has expired. That of a customer without an account is not ours."""
        rows = await self._context.rows(ACCOUNT_OF_CUSTOMER, {"customer": f"{self._name}/{customer}"})
        if not rows:
            await self._context.decide(
                origin, _no_events, extra_statements=partial(finish, task, self._context.now()), leases=leases
            )
            return
        tenant_id = rows[0].id

        def decide(unit: UnitOfWork, _: DecisionContext) -> None:
            account = unit.get(ACCOUNTS, tenant_id)
            if account is not None:
                unit.record(ACCOUNTS, tenant_id, accounts.checkout_expired(account, checkout))

        def end(statement: Statement) -> None:
            finish(task, self._context.now(), statement)
            if rows[0].is_gone:
                enqueue_sync(self._name, f"{CUSTOMER}/{customer}", self._context.now(), statement)

        await self._context.decide(
            origin,
            decide,
            writes=[ACCOUNTS.key(tenant_id)],
            extra_statements=end,
            leases=leases,
        )


def _no_events(_unit: UnitOfWork, _at: DecisionContext) -> None:
    """Decides nothing."""
