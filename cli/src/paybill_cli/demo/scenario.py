"""Runs all chapters of the demo in order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
from paybill_runtime.http.auth import Role
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets
from paybill_stack.layout import SERVICES, STRIPE_FAKE
from paybill_stack.operator_key import temporary_key
from paybill_stack.supervisor import Supervisor
from paybill_stripe_fake.client import FakeControl, FakeControlError

from paybill_cli.demo import agents, isolation, metering, offboarding, onboarding, payment, verification
from paybill_cli.demo.printer import Printer
from paybill_cli.demo.recorder import TIMEOUT_S, NotObservedError, recorded
from paybill_cli.demo.session import DemoSession
from paybill_cli.errors import CliError

_KEY_LIFETIME = timedelta(hours=1)
_SCOPES = (*(f"{service}:write" for service in SERVICES), *(f"{service}:read" for service in SERVICES))
_MAX_HINTS = 4
_HINT_TIMEOUT_S = 2.0


async def run_scenario(stack: Supervisor, printer: Printer, *, fresh: bool) -> None:
    """Runs and checks every chapter. Raises CliError for the first failed check."""
    logs = f"read the logs in {stack.layout.log('any').parent}"
    async with _session(stack, printer, fresh=fresh) as session:
        try:
            await _chapters(session)
        except NotObservedError as error:
            why = "; ".join([f"observed instead: {error.observed}", *await _failing_work(session)])
            raise CliError("not_observed", f"not observed: {error.check}", why=why, next=logs) from error
        except FakeControlError as error:
            raise CliError("stripe_fake_refused", "the Stripe fake refused", why=str(error), next=logs) from error


async def _failing_work(session: DemoSession) -> list[str]:
    """Fetches the reasons of failing work from the services."""
    hints = []
    for service in SERVICES:
        for kind in ("effects", "dead-letters"):
            try:
                url = f"{session.stack.addresses.url(service)}/v1/operations/{kind}"
                response = await session.http.get(url, timeout=_HINT_TIMEOUT_S)
                rows = response.raise_for_status().json()
                hints += [f"{service} has failing {kind}: {row['reason']}" for row in rows if row["reason"]]
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                hints.append(f"{service} does not report its failing {kind} ({type(error).__name__})")
    return hints[:_MAX_HINTS]


async def _chapters(session: DemoSession) -> None:
    region = await onboarding.publish_catalogue(session)
    customers = await onboarding.sign_up(session, region, await _suffix(session))
    tenants = await onboarding.pay(session, customers)
    pooled, other, bridge, _, silo = tenants
    await isolation.check_isolation(session, tenants)
    await agents.work(session, pooled, other)
    await payment.fail_and_recover(session, bridge)
    await metering.report_usage(session, pooled)
    await offboarding.offboard(session, silo)
    await verification.verify(session)
    facts, seconds = session.recorder.printed, session.printer.elapsed_s
    session.printer.summary(
        {"facts": facts, "tenants": len(tenants), "elapsed_s": round(seconds, 1)},
        f"All checks passed: {facts} events of {len(tenants)} tenants in {seconds:.1f} s.",
    )
    session.printer.next("`make up` starts this stack for you, `paybill tenant create --help` signs up a tenant")
    session.printer.next("`paybill events tail --since 10m` shows what happens to it, event by event")


async def _suffix(session: DemoSession) -> str:
    """Returns a suffix that makes the slugs new: a slug belongs permanently to one tenant."""
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        name = f"{onboarding.CUSTOMERS[0][0]}{suffix}"
        if not (await session.request("GET", f"/v1/tenants?slug={name}"))["tenants"]:
            return suffix
        number += 1


@asynccontextmanager
async def _session(stack: Supervisor, printer: Printer, *, fresh: bool) -> AsyncIterator[DemoSession]:
    layout = stack.layout
    secrets = FileSecrets(layout.secrets, Identity.load(layout.identities, "operator"))
    stripe_key = layout.stripe_api_key.read_text(encoding="ascii").strip()
    with (
        temporary_key(layout.api_keys, "demo", Role.OPERATOR, _SCOPES, _KEY_LIFETIME) as key,
        FakeControl(stack.addresses.url(STRIPE_FAKE), stripe_key) as fake,
    ):
        async with (
            recorded(stack.addresses.bus, printer, fresh=fresh) as recorder,
            httpx.AsyncClient(
                headers={"Authorization": f"Bearer {key}"},
                timeout=TIMEOUT_S,
                trust_env=False,
            ) as http,
        ):
            yield DemoSession(stack, recorder, printer, http, fake, secrets)
