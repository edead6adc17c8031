"""Tests of the rules of licences: lifecycle, changes of the subscription, and seats."""

from datetime import timedelta

import pytest
from billing_samples import DAY, NOW, TENANT
from change_samples import having
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from paybill_billing.entitlements.domain.entitlements import Entitlements
from paybill_billing.licences.domain import licences, seats
from paybill_billing.licences.domain.licences import (
    LicenceOrderError,
    LicenceTakenBackError,
    NoAccessError,
    Status,
    TooManySeatsError,
)
from paybill_billing.licences.domain.seats import LicenceNotInForceError, NoSeatLeftError
from paybill_contracts.billing import AccessState
from paybill_contracts.catalogue import LimitFeature, PlanRef
from paybill_contracts.licences import (
    LicenceIssued,
    LicenceLapsing,
    LicenceReissued,
    LicenceRenewed,
    LicenceRevoked,
    LicenceSigningFailed,
    Purpose,
    RevocationOrigin,
)
from paybill_contracts.placement import Preset
from paybill_licence import (
    assemble,
    base64url,
    key_id,
    signing_input,
    verify_licence,
)

SUBSCRIPTION = "sub_" + "5" * 32
DAYS_30 = 30 * 86_400
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
KID = key_id(PUBLIC.public_bytes_raw())
MACHINES = [f"{number:064x}" for number in range(5)]


def subscription(quantity=2, access=AccessState.ACTIVE):
    return having(subscription_id=SUBSCRIPTION, quantity=quantity, access=access)


def entitled(limit=10, *, allows=True, subscription_id=SUBSCRIPTION):
    return Entitlements(
        id=TENANT,
        subscription_id=subscription_id,
        plan=PlanRef(plan="pro", version=1, catalogue_hash="a" * 64),
        tier="pro",
        placement=Preset.POOLED,
        features=(LimitFeature(kind="limit", key="projects", limit=limit),),
        allows_access=allows,
        entitlements_hash=f"{limit:064x}",
    )


def fold(state, events, evolve=licences.evolve):
    for event in events:
        state = evolve(state, event)
    return state


def issued(licence=None, *, seats=None, valid_s=DAYS_30, now=NOW):
    return licences.issue(licence, entitled(), subscription(), seats=seats, valid_s=valid_s, now=now)


def signed(licence, key=KEY):
    """Returns the facts of the signing job for a pending licence."""
    claims = licences.claims_of(licence, licence.pending.revision, key_id(key.public_key().public_bytes_raw()))
    return licences.signed(licence, claims, assemble(claims, base64url(key.sign(signing_input(claims)))))


def in_force(**more):
    licence = fold(None, issued(**more))
    return fold(licence, signed(licence))


LICENCE = in_force()
REVOKED = fold(LICENCE, licences.revoke(LICENCE, "leaked", RevocationOrigin.OPERATOR))
WITHOUT_ACCESS = fold(LICENCE, licences.on_subscription_changed(LICENCE, entitled(allows=False), subscription(), NOW))


def test_an_issued_licence_is_signed_with_the_subscription_s_terms():
    waiting = fold(None, issued())
    (event,) = signed(waiting)

    assert (waiting.status, waiting.token, waiting.due) == (Status.SIGNING, None, None)
    assert isinstance(event, LicenceIssued)
    verified = verify_licence(LICENCE.token, {KID: PUBLIC}, NOW)
    assert verified == LICENCE.claims == event.licence
    assert (verified.seats, verified.expires_at, verified.revision) == (2, NOW + 30 * DAY, 1)
    assert verified.features == entitled().features
    assert (LICENCE.status, LICENCE.due) == (Status.IN_FORCE, NOW + 20 * DAY)


def test_issuing_again_changes_nothing_unless_the_seats_or_the_validity_differ():
    (request,) = issued(LICENCE, seats=9)
    (event,) = signed(fold(LICENCE, [request]))

    assert issued(LICENCE) == []
    assert (request.purpose, request.terms.seats, request.revision) == (Purpose.REISSUE, 9, 2)
    assert isinstance(event, LicenceReissued)
    assert [event.valid_s for event in issued(LICENCE, valid_s=60)] == [60]


def test_a_subscription_without_access_gives_no_licence():
    with pytest.raises(NoAccessError, match="suspended"):
        licences.issue(
            None, entitled(allows=False), subscription(access=AccessState.SUSPENDED), seats=1, valid_s=60, now=NOW
        )


def test_a_licence_is_renewed_once_after_two_thirds_of_its_validity():
    due = LICENCE.due
    (request,) = licences.on_time(LICENCE, due)
    waiting = fold(LICENCE, [request])
    (event,) = signed(waiting)

    assert licences.on_time(LICENCE, due - timedelta(seconds=1)) == []
    assert (request.purpose, request.expires_at) == (Purpose.RENEW, due + 30 * DAY)
    assert licences.on_time(waiting, due + DAY) == []
    assert (waiting.token, waiting.status) == (LICENCE.token, Status.IN_FORCE)
    assert isinstance(event, LicenceRenewed)
    assert fold(waiting, [event]).due == due + 20 * DAY


def test_an_operator_s_renewal_is_not_repeated_while_it_is_pending():
    waiting = fold(LICENCE, licences.renew(LICENCE, NOW + DAY))

    assert waiting.pending.purpose is Purpose.RENEW
    assert licences.renew(waiting, NOW + DAY) == []


def test_a_failed_signature_is_retried_and_the_earlier_revision_stays_in_force():
    waiting = fold(LICENCE, licences.renew(LICENCE, NOW))
    (failed,) = licences.signing_failed(waiting, 2, "no key", NOW)
    state = fold(waiting, [failed])

    assert isinstance(failed, LicenceSigningFailed)
    assert (state.failure, state.token, state.due) == ("no key", LICENCE.token, NOW + licences.RETRY)
    assert licences.on_time(state, NOW + licences.RETRY)[0].revision == 3
    assert licences.renew(state, NOW)[0].revision == 3
    assert licences.signing_failed(waiting, 1, "late", NOW) == []
    assert licences.signing_failed(LICENCE, 1, "late", NOW) == []


def test_retries_of_a_licence_never_signed_keep_the_purpose_issue():
    waiting = fold(None, issued())
    failed = fold(waiting, licences.signing_failed(waiting, 1, "no key", NOW))

    for again in (licences.on_time(failed, NOW + DAY), licences.renew(failed, NOW), issued(failed)):
        assert [(event.purpose, event.revision) for event in again] == [(Purpose.ISSUE, 2)]


def test_a_licence_is_reissued_only_when_entitlements_or_seats_change():
    def change(entitlements, subscription):
        return [
            (event.purpose, event.terms.seats, event.terms.entitlements_hash)
            for event in licences.on_subscription_changed(LICENCE, entitlements, subscription, NOW)
        ]

    assert change(entitled(), subscription()) == []
    assert change(entitled(20), subscription()) == [(Purpose.REISSUE, 2, f"{20:064x}")]
    assert change(entitled(), subscription(7)) == [(Purpose.REISSUE, 7, f"{10:064x}")]
    assert change(entitled(), subscription(10**9))[0][1] == 10_000


def test_seats_fixed_by_an_operator_do_not_follow_the_subscription():
    assert licences.on_subscription_changed(in_force(seats=5), entitled(), subscription(7), NOW) == []


def test_a_change_during_signing_replaces_the_pending_revision():
    waiting = fold(None, issued())
    stale = signed(waiting)
    changed = fold(waiting, licences.on_subscription_changed(waiting, entitled(20), subscription(), NOW))

    assert licences.claims_of(changed, 1, KID) is None
    assert licences.signed(changed, stale[0].licence, stale[0].token) == []
    assert signed(changed)[0].licence.entitlements_hash == f"{20:064x}"


@pytest.mark.parametrize(
    ("entitlements", "bought"),
    [
        (entitled(allows=False), subscription()),
        (entitled(subscription_id="sub_" + "6" * 32), subscription()),
        (None, subscription()),
        (entitled(), None),
    ],
    ids=["no access", "another subscription", "no entitlements", "no subscription"],
)
def test_a_licence_without_access_is_not_renewed_and_stays_valid_until_it_expires(entitlements, bought):
    (event,) = licences.on_subscription_changed(LICENCE, entitlements, bought, NOW)
    state = fold(LICENCE, [event])

    assert isinstance(event, LicenceLapsing)
    assert (state.status, state.due, state.token) == (Status.LAPSING, None, LICENCE.token)
    assert licences.on_subscription_changed(state, entitlements, bought, NOW) == []
    assert licences.on_time(state, NOW + 99 * DAY) == []
    with pytest.raises(NoAccessError):
        licences.renew(state, NOW)


def test_a_licence_is_reissued_when_access_returns():
    (request,) = licences.on_subscription_changed(WITHOUT_ACCESS, entitled(), subscription(), NOW + DAY)

    assert request.expires_at == NOW + 31 * DAY
    assert fold(WITHOUT_ACCESS, [request]).status is Status.IN_FORCE
    assert issued(WITHOUT_ACCESS)[0].revision == 2


def test_a_licence_is_revoked_once_with_all_its_signed_revisions():
    waiting = fold(LICENCE, licences.renew(LICENCE, NOW + DAY))
    (event,) = licences.revoke(waiting, "leaked", RevocationOrigin.OPERATOR)
    state = fold(waiting, [event])

    assert (event.revision, event.last_expiry) == (2, NOW + 31 * DAY)
    assert licences.revoke(state, "again", RevocationOrigin.OPERATOR) == []
    assert licences.revoke(None, "none", RevocationOrigin.SUBSCRIPTION_ENDED) == []
    assert (state.token, state.claims, state.due, licences.claims_of(state, 2, KID)) == (None, None, None, None)
    with pytest.raises(LicenceTakenBackError, match="leaked"):
        licences.renew(state, NOW)


def test_a_revoked_licence_stays_revoked_until_it_is_issued_with_a_later_revision():
    (request,) = issued(REVOKED)
    again = fold(REVOKED, [request])

    assert licences.on_subscription_changed(REVOKED, entitled(20), subscription(), NOW) == []
    assert (request.purpose, request.revision) == (Purpose.ISSUE, 2)
    assert (again.status, again.revoked) == (Status.SIGNING, None)


def test_the_last_expiry_covers_an_earlier_revision_with_a_longer_validity():
    shorter = fold(LICENCE, issued(LICENCE, valid_s=86_400))

    assert licences.revoke(shorter, "x", RevocationOrigin.OPERATOR)[0].last_expiry == NOW + 30 * DAY


def test_a_licence_activates_as_many_machines_as_it_has_seats():
    state = LICENCE
    for machine in MACHINES[:2]:
        state = fold(state, seats.activate(state, machine, NOW))

    with pytest.raises(NoSeatLeftError, match=r"all 2 seats .*paybill licence deactivate"):
        seats.activate(state, MACHINES[2], NOW)
    assert seats.activate(state, MACHINES[0], NOW) == []
    (freed,) = seats.deactivate(state, MACHINES[0])
    assert freed.seats_used == 1
    assert seats.deactivate(fold(state, [freed]), MACHINES[0]) == []
    assert seats.activate(fold(state, [freed]), MACHINES[2], NOW)[0].seats_used == 2


def test_a_repeated_activation_is_recorded_at_most_once_a_day():
    state = fold(LICENCE, seats.activate(LICENCE, MACHINES[0], NOW))
    (event,) = seats.activate(state, MACHINES[0], NOW + DAY)
    again = fold(state, [event])

    assert seats.activate(state, MACHINES[0], NOW + DAY - timedelta(seconds=1)) == []
    assert [(each.activated_at, each.seen_at) for each in again.activations] == [(NOW, NOW + DAY)]
    assert event.seats_used == 1


def test_a_reduction_of_seats_keeps_active_machines_and_refuses_new_ones():
    state = LICENCE
    for machine in MACHINES[:2]:
        state = fold(state, seats.activate(state, machine, NOW))
    state = fold(state, licences.on_subscription_changed(state, entitled(), subscription(1), NOW))
    state = fold(state, signed(state))

    assert len(state.activations) == 2
    assert seats.activate(state, MACHINES[0], NOW + DAY) != []
    with pytest.raises(NoSeatLeftError):
        seats.activate(state, MACHINES[2], NOW)


def test_a_licence_that_is_not_in_force_activates_no_machine():
    with pytest.raises(LicenceNotInForceError):
        seats.activate(fold(None, issued()), MACHINES[0], NOW)
    with pytest.raises(LicenceNotInForceError):
        seats.activate(LICENCE, MACHINES[0], LICENCE.claims.expires_at)
    with pytest.raises(LicenceTakenBackError):
        seats.activate(REVOKED, MACHINES[0], NOW)
    assert seats.activate(WITHOUT_ACCESS, MACHINES[0], NOW) != []


_STEPS = st.one_of(
    st.tuples(st.just("activate"), st.sampled_from(MACHINES)),
    st.tuples(st.just("deactivate"), st.sampled_from(MACHINES)),
    st.tuples(st.just("wait"), st.integers(1, 40)),
    st.tuples(st.just("change"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["renew", "lapse", "revoke", "issue", "sign", "fail", "time"]), st.none()),
)


@given(st.lists(_STEPS, max_size=40))
def test_any_steps_keep_the_invariants_of_seats_revisions_expiry_and_revocations(steps):
    state, now, tokens, entries = LICENCE, NOW, [], {}
    for step, value in steps:
        before = state
        try:
            match step:
                case "wait":
                    now += value * DAY
                    continue
                case "activate":
                    events = seats.activate(state, value, now)
                case "deactivate":
                    events = seats.deactivate(state, value)
                case "change":
                    events = licences.on_subscription_changed(state, entitled(10 + value), subscription(value), now)
                case "lapse":
                    events = licences.on_subscription_changed(state, entitled(allows=False), subscription(), now)
                case "renew":
                    events = licences.renew(state, now)
                case "revoke":
                    events = licences.revoke(state, "why", RevocationOrigin.OPERATOR)
                case "issue":
                    events = issued(state, now=now)
                case "sign":
                    events = signed(state) if state.pending is not None else []
                case "fail":
                    events = licences.signing_failed(state, state.revision, "why", now)
                case "time":
                    events = licences.on_time(state, now)
        except (NoSeatLeftError, NoAccessError, LicenceTakenBackError, LicenceNotInForceError):
            continue
        state = fold(state, events)
        for event in events:
            if isinstance(event, LicenceRevoked):
                entries[event.licence_id] = event.revision
            if isinstance(event, LicenceIssued | LicenceRenewed | LicenceReissued):
                tokens.append(event.licence)
        assert state.revision >= before.revision
        assert len(state.activations) <= max(len(before.activations), state.terms.seats)
        assert (state.status is Status.REVOKED) == (state.token is None and state.revoked is not None)
        assert state.token is None or state.claims.revision > entries.get(state.id, 0)
        assert all(claims.expires_at <= state.last_expiry for claims in tokens)


def test_a_fact_before_the_first_signing_request_is_refused():
    with pytest.raises(LicenceOrderError):
        licences.evolve(None, licences.revoke(LICENCE, "x", RevocationOrigin.OPERATOR)[0])


def test_a_licence_is_refused_for_more_seats_than_it_can_have_and_follows_no_seat():
    about = {"valid_s": DAYS_30, "now": NOW}

    with pytest.raises(TooManySeatsError, match="at most 10000 seats"):
        licences.issue(None, entitled(), subscription(20_000), seats=None, **about)
    (fixed,) = licences.issue(None, entitled(), subscription(20_000), seats=7, **about)
    (most,) = licences.issue(None, entitled(), subscription(10_000), seats=None, **about)
    (none,) = licences.issue(None, entitled(), subscription(0), seats=None, **about)

    assert [event.terms.seats for event in (fixed, most, none)] == [7, 10_000, 0]
    unpinned, pinned = licences.evolve(None, most), licences.evolve(None, fixed)
    assert licences.lacks_seats(unpinned, subscription(20_000))
    assert not licences.lacks_seats(unpinned, subscription(10_000))
    assert not licences.lacks_seats(pinned, subscription(20_000))
