"""HTTP routes of all contexts, and the view of an account, which composes several."""

from collections.abc import Mapping

from fastapi import APIRouter
from paybill_runtime.decisions.context import ServiceContext

from paybill_billing.api import accounts
from paybill_billing.catalogue import api as catalogue
from paybill_billing.entitlements import api as entitlements
from paybill_billing.licences.api import keys, licences, well_known
from paybill_billing.providers.manual import api as manual
from paybill_billing.providers.port import ProviderConnection, SubscriptionLister
from paybill_billing.reconciliation import api as reconciliation
from paybill_billing.statements import api as statements
from paybill_billing.subscriptions.api import changes, checkouts, plan_migrations, portal, providers
from paybill_billing.usage.api import check, invoiced, usage, windows
from paybill_billing.webhooks.api import messages, receive


def router(
    context: ServiceContext,
    connected: Mapping[str, ProviderConnection],
) -> APIRouter:
    """Returns the routes. connected: the providers by name."""
    listing = frozenset(name for name, one in connected.items() if isinstance(one.provider, SubscriptionLister))
    inbound = {
        name: one.inbound for name, one in connected.items() if one.inbound is not None and one.events_every_s is None
    }
    contexts = (
        accounts.router(context),
        manual.router(context),
        providers.router(context, connected),
        portal.router(context, connected),
        checkouts.router(context, connected),
        catalogue.router(context),
        entitlements.router(context),
        check.router(context),
        changes.router(context),
        plan_migrations.router(context),
        licences.router(context),
        keys.router(context),
        well_known.router(context),
        usage.router(context),
        windows.router(context),
        invoiced.router(context, connected),
        statements.router(context),
        messages.router(context),
        reconciliation.router(context, listing),
        receive.router(context, inbound),
    )
    return APIRouter(routes=[route for each in contexts for route in each.routes])
