"""Generates signing keys, and signs licences and the revocation list."""

from collections.abc import AsyncIterator
from functools import partial

from paybill_contracts.envelope import Origin
from paybill_contracts.licences import (
    LicenceKeyPublished,
    LicenceKeyRequested,
    LicenceRevocationsChanged,
    LicenceSigningRequested,
)
from paybill_licence import Licence as Claims
from paybill_licence import assemble, signing_input
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import single_line
from paybill_runtime.jobs.effects import Job, JobRegistry, Outcome, Refused

from paybill_billing.licences.domain import licence_keys, licences, revocations
from paybill_billing.licences.domain.licence_keys import KEYRING, SigningKey
from paybill_billing.licences.domain.revocations import REVOCATIONS
from paybill_billing.licences.effects import ExternalSystems, GeneratedKey, LostKeyError
from paybill_billing.licences.tables import KEYRINGS, LICENCES, REVOCATION_LISTS

JOBS = JobRegistry()

ATTEMPTS = 5
"""About 15 s, during which other effects of the tenant wait. Afterwards a timer retries."""

_START = Origin("start", "start", "service:billing", "")
_KEYRING = KEYRINGS.key(KEYRING)
_LIST = REVOCATION_LISTS.key(REVOCATIONS)


class NoKeyError(Exception):
    """No key can sign yet."""


async def request_first_key(context: ServiceContext) -> None:
    """Requests a key at the start, so that verifiers can get its public half before the first licence."""

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        keyring = unit.get(KEYRINGS, KEYRING)
        unit.record(KEYRINGS, KEYRING, licence_keys.request_first(keyring, context.settings.licence_valid_s))

    await context.decide(_START, decide, writes=[_KEYRING])


def _failed(job: Job[LicenceSigningRequested], reason: str) -> Outcome:
    id_, revision = job.event.licence_id, job.event.revision

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        licence = unit.get(LICENCES, id_)
        if licence is not None:
            unit.record(LICENCES, id_, licences.signing_failed(licence, revision, single_line(reason), at.now))

    return Outcome(decide, writes=[LICENCES.key(id_)])


@JOBS.effect(LicenceSigningRequested, attempts=ATTEMPTS, failed=_failed)
async def sign_licence(job: Job[LicenceSigningRequested], systems: ExternalSystems) -> AsyncIterator[Outcome]:
    """Signs a licence with the active key. Skips a revision that a later one has replaced."""
    id_ = job.event.licence_id
    licence = await job.state(LICENCES, id_)
    key = await _key(job)
    claims = licences.claims_of(licence, job.event.revision, key.kid) if licence is not None else None
    if claims is None:
        return
    token = assemble(claims, await _signature(systems, key, signing_input(claims)))
    yield Outcome(partial(_signed, claims, token), writes=[LICENCES.key(id_)], reads=[_KEYRING], last=True)


@JOBS.effect(LicenceKeyRequested, attempts=ATTEMPTS)
async def make_key(job: Job[LicenceKeyRequested], systems: ExternalSystems) -> AsyncIterator[Outcome]:
    """Generates a key and publishes it; the revocation list is signed again with it."""
    keyring = await job.state(KEYRINGS, KEYRING)
    if keyring is None or keyring.request is None:
        return
    key = await systems.keys.generate(f"licence-keys/{job.id}")
    yield Outcome(partial(_published, key), writes=[_KEYRING, _LIST], last=True)


@JOBS.effect(LicenceKeyPublished, attempts=ATTEMPTS)
async def destroy_replaced(job: Job[LicenceKeyPublished], systems: ExternalSystems) -> AsyncIterator[Outcome]:
    """Destroys the private half of the replaced key, so that it cannot be stolen."""
    keyring = await job.state(KEYRINGS, KEYRING)
    for key in keyring.keys if keyring is not None else ():
        if key.kid == job.event.replaces:
            await systems.keys.destroy(key.secret)
    yield Outcome(lambda _unit, _at: None, last=True)


@JOBS.effect(LicenceRevocationsChanged, attempts=ATTEMPTS)
async def sign_revocations(job: Job[LicenceRevocationsChanged], systems: ExternalSystems) -> AsyncIterator[Outcome]:
    """Signs the newest list. Skips an older one."""
    current = await job.state(REVOCATION_LISTS, REVOCATIONS)
    if current is None or current.number != job.event.number:
        return
    key = await _key(job)
    signature = await _signature(systems, key, signing_input(revocations.claims_of(current, key.kid)))

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        newest = unit.get(REVOCATION_LISTS, REVOCATIONS)
        if newest is not None:
            events = revocations.signed(newest, job.event.number, key.kid, signature)
            unit.record(REVOCATION_LISTS, REVOCATIONS, events)

    yield Outcome(decide, writes=[_LIST], last=True)


async def _key(job: Job[LicenceSigningRequested] | Job[LicenceRevocationsChanged]) -> SigningKey:
    keyring = await job.state(KEYRINGS, KEYRING)
    key = licence_keys.active(keyring)
    if key is None:
        raise NoKeyError("there is no licence key yet; the first one is being generated")
    return key


async def _signature(systems: ExternalSystems, key: SigningKey, message: bytes) -> str:
    try:
        return await systems.keys.sign(key.kid, key.secret, message)
    except LostKeyError as error:
        raise Refused(str(error)) from error


def _signed(claims: Claims, token: str, unit: UnitOfWork, _: DecisionContext) -> None:
    key = licence_keys.active(unit.get(KEYRINGS, KEYRING))
    if key is None or key.kid != claims.kid:
        raise NoKeyError(f"{claims.kid} is not the active key any more; the next attempt uses the active one")
    licence = unit.get(LICENCES, claims.licence_id)
    if licence is not None:
        unit.record(LICENCES, claims.licence_id, licences.signed(licence, claims, token))


def _published(key: GeneratedKey, unit: UnitOfWork, at: DecisionContext) -> None:
    keyring = unit.get(KEYRINGS, KEYRING)
    if keyring is None:
        return
    events = licence_keys.published(keyring, kid=key.kid, public_key=key.public_key, secret=key.secret, now=at.now)
    unit.record(KEYRINGS, KEYRING, events)
    if events:
        unit.record(
            REVOCATION_LISTS, REVOCATIONS, revocations.next_list(unit.get(REVOCATION_LISTS, REVOCATIONS), at.now)
        )
