"""Effects of licences' facts: make keys, sign licences and the list of revocations."""

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
from paybill_runtime.jobs.effects import Job, Outcome, Refused

from paybill_billing.licences.domain import licence_keys, licences, revocations
from paybill_billing.licences.domain.licence_keys import KEYRING, SigningKey
from paybill_billing.licences.domain.revocations import REVOCATIONS
from paybill_billing.licences.effects import ExternalSystems, GeneratedKey, LostKeyError
from paybill_billing.licences.tables import KEYRINGS, LICENCES, REVOCATION_LISTS
from paybill_billing.subscriptions.jobs.accounts import JOBS

ATTEMPTS = 5
"""A quarter of a minute: what else is to be done for the tenant waits meanwhile. A timer has it tried again later."""

_START = Origin("start", "start", "service:billing", "")
_KEYRING = KEYRINGS.key(KEYRING)
_LIST = REVOCATION_LISTS.key(REVOCATIONS)


class NoKeyError(Exception):
    """The first key is not made yet."""


async def request_first_key(context: ServiceContext) -> None:
    """There is a key before the first licence, so that it can be put where licences are verified."""

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        known = unit.get(KEYRINGS, KEYRING)
        unit.record(KEYRINGS, KEYRING, licence_keys.request_first(known, context.settings.licence_valid_s))

    await context.decide(_START, decide, writes=[_KEYRING])


def _failed(job: Job[LicenceSigningRequested], reason: str) -> Outcome:
    id_, revision = job.event.licence_id, job.event.revision

    def decide(unit: UnitOfWork, at: DecisionContext) -> None:
        known = unit.get(LICENCES, id_)
        if known is not None:
            unit.record(LICENCES, id_, licences.signing_failed(known, revision, single_line(reason), at.now))

    return Outcome(decide, writes=[LICENCES.key(id_)])


@JOBS.effect(LicenceSigningRequested, attempts=ATTEMPTS, failed=_failed)
async def sign_licence(job: Job[LicenceSigningRequested], outside: ExternalSystems) -> AsyncIterator[Outcome]:
    """Sign a licence with the key of the day. A revision that a later one took the place of is left to the later."""
    id_ = job.event.licence_id
    known = await job.state(LICENCES, id_)
    key = await _key(job)
    claims = licences.claims_of(known, job.event.revision, key.kid) if known is not None else None
    if claims is None:
        return
    token = assemble(claims, await _signature(outside, key, signing_input(claims)))
    yield Outcome(partial(_signed, claims, token), writes=[LICENCES.key(id_)], reads=[_KEYRING], last=True)


@JOBS.effect(LicenceKeyRequested, attempts=ATTEMPTS)
async def make_key(job: Job[LicenceKeyRequested], outside: ExternalSystems) -> AsyncIterator[Outcome]:
    """Make a key and publish it; the list of revocations is signed anew with it."""
    keyring = await job.state(KEYRINGS, KEYRING)
    if keyring is None or keyring.wanted is None:
        return
    made = await outside.keys.make(f"licence-keys/{job.id}")
    yield Outcome(partial(_published, made), writes=[_KEYRING, _LIST], last=True)


@JOBS.effect(LicenceKeyPublished, attempts=ATTEMPTS)
async def destroy_replaced(job: Job[LicenceKeyPublished], outside: ExternalSystems) -> AsyncIterator[Outcome]:
    """A key that signs no more needs no private half: nobody can steal what is gone."""
    keyring = await job.state(KEYRINGS, KEYRING)
    for key in keyring.keys if keyring is not None else ():
        if key.kid == job.event.replaces:
            await outside.keys.destroy(key.secret)
    yield Outcome(lambda _unit, _at: None, last=True)


@JOBS.effect(LicenceRevocationsChanged, attempts=ATTEMPTS)
async def sign_revocations(job: Job[LicenceRevocationsChanged], outside: ExternalSystems) -> AsyncIterator[Outcome]:
    """Sign the newest list; an older one is not needed any more."""
    known = await job.state(REVOCATION_LISTS, REVOCATIONS)
    if known is None or known.number != job.event.number:
        return
    key = await _key(job)
    signature = await _signature(outside, key, signing_input(revocations.claims_of(known, key.kid)))

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
        raise NoKeyError("there is no licence key yet; it is being made")
    return key


async def _signature(outside: ExternalSystems, key: SigningKey, message: bytes) -> str:
    try:
        return await outside.keys.sign(key.kid, key.secret, message)
    except LostKeyError as error:
        raise Refused(str(error)) from error


def _signed(claims: Claims, token: str, unit: UnitOfWork, _: DecisionContext) -> None:
    key = licence_keys.active(unit.get(KEYRINGS, KEYRING))
    if key is None or key.kid != claims.kid:
        raise NoKeyError(f"{claims.kid} does not sign any more; the next attempt takes the key that does")
    known = unit.get(LICENCES, claims.licence_id)
    if known is not None:
        unit.record(LICENCES, claims.licence_id, licences.signed(known, claims, token))


def _published(made: GeneratedKey, unit: UnitOfWork, at: DecisionContext) -> None:
    keyring = unit.get(KEYRINGS, KEYRING)
    if keyring is None:
        return
    said = licence_keys.published(keyring, kid=made.kid, public_key=made.public_key, secret=made.secret, now=at.now)
    unit.record(KEYRINGS, KEYRING, said)
    if said:
        unit.record(
            REVOCATION_LISTS, REVOCATIONS, revocations.next_list(unit.get(REVOCATION_LISTS, REVOCATIONS), at.now)
        )
