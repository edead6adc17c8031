"""The status of a licence advises a running system and never stops it."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from paybill_licence import (
    Advice,
    Licence,
    LicenceExpiredError,
    LicenceRevokedError,
    LicenceStatus,
    UnknownLicenceKeyError,
    check_licence,
    update_status,
)
from paybill_licence.claims import PlanRef

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def licence(revision=1, issued=NOW):
    return Licence(
        alg="Ed25519",
        kid="A" * 43,
        licence_id="lic_" + "a" * 32,
        tenant_id="ten_" + "b" * 32,
        subscription_id="sub_" + "c" * 32,
        plan=PlanRef(plan="pro", version=2, catalogue_hash="d" * 64),
        tier="pro",
        features=(),
        entitlements_hash="e" * 64,
        seats=3,
        issued_at=issued,
        not_before=issued,
        expires_at=issued + 30 * DAY,
        revision=revision,
    )


ONE = licence()
UNKNOWN = UnknownLicenceKeyError("unknown key")
EXPIRED = LicenceExpiredError("expired")
REVOKED = LicenceRevokedError("revoked", ONE)


def after(*results):
    state = None
    for days, result in results:
        state = update_status(state, result, NOW + days * DAY)
    return state


def test_a_licence_is_due_for_renewal_after_two_thirds_of_its_validity_period():
    assert after((0, ONE), (19, ONE)) == LicenceStatus(Advice.VALID, NOW, ONE)
    assert after((0, ONE), (20, ONE)) == LicenceStatus(Advice.RENEW_SOON, NOW + 20 * DAY, ONE)
    assert after((20, ONE), (21, licence(2, NOW + 21 * DAY))).advice is Advice.VALID


def test_an_unverified_status_keeps_its_start_and_the_last_claims():
    assert after((0, ONE), (31, EXPIRED), (32, UNKNOWN), (400, EXPIRED)) == LicenceStatus(
        Advice.UNVERIFIED, NOW + 31 * DAY, ONE, "licence_expired"
    )
    assert after((0, UNKNOWN)) == LicenceStatus(Advice.UNVERIFIED, NOW, None, "licence_unknown_key")


def test_a_verified_licence_ends_the_unverified_status():
    assert after((0, UNKNOWN), (1, ONE)) == LicenceStatus(Advice.VALID, NOW + DAY, ONE)


def test_only_a_signed_list_revokes_and_losing_the_list_does_not_restore_the_licence():
    revoked = LicenceStatus(Advice.REVOKED, NOW + DAY, ONE, "licence_revoked")

    assert after((0, ONE), (1, REVOKED)) == revoked
    assert after((0, ONE), (1, REVOKED), (2, UNKNOWN), (3, ONE), (4, REVOKED)) == revoked


def test_a_reissued_licence_ends_a_revocation():
    again = licence(2)

    assert after((1, REVOKED), (2, again)) == LicenceStatus(Advice.VALID, NOW + 2 * DAY, again)


@given(st.lists(st.tuples(st.integers(-400, 400), st.sampled_from([ONE, licence(2), UNKNOWN, EXPIRED]))))
def test_without_a_revocation_list_the_status_is_at_worst_unverified(results):
    state = after(*results)

    assert state is None or state.advice is not Advice.REVOKED


def test_a_clock_that_is_set_back_does_not_make_an_expired_licence_valid():
    back = after((0, ONE), (31, EXPIRED), (29, ONE))

    assert (back.advice, back.since, back.licence) == (Advice.CLOCK_SET_BACK, NOW + 29 * DAY, ONE)
    assert back.latest == NOW + 31 * DAY
    assert after((0, ONE), (31, EXPIRED), (29, ONE), (30, ONE)).since == NOW + 29 * DAY
    assert after((0, ONE), (31, EXPIRED), (29, ONE), (32, licence(2, NOW + 31 * DAY))).advice is Advice.VALID
    assert after((1, ONE), (1 - 4 / 1440, ONE)).advice is Advice.VALID
    assert after((2, REVOKED), (0, ONE)).advice is Advice.REVOKED
    assert after((2, ONE), (0, REVOKED)).advice is Advice.REVOKED


def test_a_status_without_a_valid_time_is_unverified():
    for now in (None, NOW.replace(tzinfo=None)):
        first = check_licence(None, "x", {}, now)
        later = check_licence(after((0, ONE)), "x", {}, now)
        revoked = check_licence(after((0, REVOKED)), "x", {}, now)

        assert (first.advice, first.code, first.licence) == (Advice.UNVERIFIED, "licence_invalid_time", None)
        assert (later.advice, later.since, later.licence) == (Advice.UNVERIFIED, NOW, ONE)
        assert revoked.advice is Advice.REVOKED


@given(st.one_of(st.text(), st.binary()))
def test_check_licence_never_raises(token):
    assert check_licence(LicenceStatus(Advice.VALID, NOW, ONE), token, {}, NOW + DAY).advice is Advice.UNVERIFIED
