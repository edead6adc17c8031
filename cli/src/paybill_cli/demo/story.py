"""The story from beginning to end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
from paybill_runtime.http.auth import Role
from paybill_runtime.security.identity import Identity
from paybill_runtime.security.secrets import FileSecrets
from paybill_stack.layout import SERVICES, STRIPE_FAKE
from paybill_stack.operator_key import lent_key
from paybill_stack.supervisor import Supervisor
from paybill_stripe_fake.client import FakeControl, FakeControlError

from paybill_cli.demo import isolation, leaving, metering, paying, replaying, signing_up
from paybill_cli.demo.journal import PATIENCE_S, NotObservedError, observed
from paybill_cli.demo.scene import Scene
from paybill_cli.demo.voice import Voice
from paybill_cli.errors import CliError

_KEY_LIFE = timedelta(hours=1)
_SCOPES = ("tenant:write", *(f"{service}:read" for service in SERVICES))
_MOST_HINTS = 4
_HINT_S = 2.0


async def play(stack: Supervisor, voice: Voice, *, fresh: bool) -> None:
    """Show and check everything. Raises CliError for the first thing that was not observed."""
    logs = f"read the logs in {stack.layout.log('any').parent}"
    async with _scene(stack, voice, fresh=fresh) as scene:
        try:
            await _chapters(scene)
        except NotObservedError as error:
            why = "; ".join([f"seen instead: {error.seen}", *await _stuck(scene)])
            raise CliError("not_observed", f"not observed: {error.what}", why=why, next=logs) from error
        except FakeControlError as error:
            raise CliError(
                "stripe_fake_refused", "the stand-in for Stripe refused", why=str(error), next=logs
            ) from error


async def _stuck(scene: Scene) -> list[str]:
    """What the services themselves say about work that fails."""
    found = []
    for service in SERVICES:
        for kind in ("effects", "dead-letters"):
            try:
                answer = await scene.http.get(f"{scene.stack.at.url(service)}/v1/operations/{kind}", timeout=_HINT_S)
                rows = answer.raise_for_status().json()
                found += [f"{service} has {kind} that fail: {row['reason']}" for row in rows if row["reason"]]
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                found.append(f"{service} does not say what fails ({type(error).__name__})")
    return found[:_MOST_HINTS]


async def _chapters(scene: Scene) -> None:
    region = await signing_up.offer(scene)
    tenants = await signing_up.pay(scene, await signing_up.sign_up(scene, region, await _suffix(scene)))
    pooled, _, bridge, _, silo = tenants
    await isolation.show(scene, tenants)
    await paying.fail_and_recover(scene, bridge)
    await metering.report_usage(scene, pooled)
    await leaving.leave(scene, silo)
    await replaying.verify(scene)
    facts, seconds = scene.journal.told, scene.voice.elapsed_s
    scene.voice.ended(
        {"facts": facts, "tenants": len(tenants), "elapsed_s": round(seconds, 1)},
        f"All observed: {facts} facts of {len(tenants)} tenants in {seconds:.1f} s.",
    )


async def _suffix(scene: Scene) -> str:
    """What makes the customers' names new: a slug belongs to one tenant for ever."""
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        name = f"{signing_up.CUSTOMERS[0][0]}{suffix}"
        if not (await scene.answer("GET", f"/v1/tenants?slug={name}"))["tenants"]:
            return suffix
        number += 1


@asynccontextmanager
async def _scene(stack: Supervisor, voice: Voice, *, fresh: bool) -> AsyncIterator[Scene]:
    layout = stack.layout
    secrets = FileSecrets(layout.secrets, Identity.load(layout.identities, "operator"))
    stripe_key = layout.stripe_api_key.read_text(encoding="ascii").strip()
    with (
        lent_key(layout.api_keys, "demo", Role.OPERATOR, _SCOPES, _KEY_LIFE) as key,
        FakeControl(stack.at.url(STRIPE_FAKE), stripe_key) as fake,
    ):
        async with (
            observed(stack.at.bus, voice, fresh=fresh) as journal,
            httpx.AsyncClient(
                headers={"Authorization": f"Bearer {key}"},
                timeout=PATIENCE_S,
                trust_env=False,
            ) as http,
        ):
            yield Scene(stack, journal, voice, http, fake, secrets)
