"""A running system gets advice about its licence, and is never stopped by it."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from paybill_contracts.billing import PlanRef
from paybill_licence.licence import Licence, LicenceExpiredError, LicenceRevokedError, UnknownLicenceKeyError
from paybill_licence.watch import Advice, LicenceStatus, check_licence, update_status

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
UNKNOWN = UnknownLicenceKeyError("who?")
EXPIRED = LicenceExpiredError("late")
TAKEN_BACK = LicenceRevokedError("no", ONE)


def after(*seen):
    state = None
    for days, each in seen:
        state = update_status(state, each, NOW + days * DAY)
    return state


def test_a_good_licence_is_valid_until_two_thirds_of_its_life_are_over():
    assert after((0, ONE), (19, ONE)) == LicenceStatus(Advice.VALID, NOW, ONE)
    assert after((0, ONE), (20, ONE)) == LicenceStatus(Advice.RENEW_SOON, NOW + 20 * DAY, ONE)
    assert after((20, ONE), (21, licence(2, NOW + 21 * DAY))).advice is Advice.VALID


def test_what_cannot_be_verified_is_unverified_since_the_first_time_and_keeps_what_was_known():
    assert after((0, ONE), (31, EXPIRED), (32, UNKNOWN), (400, EXPIRED)) == LicenceStatus(
        Advice.UNVERIFIED, NOW + 31 * DAY, ONE, "licence_expired"
    )
    assert after((0, UNKNOWN)) == LicenceStatus(Advice.UNVERIFIED, NOW, None, "licence_unknown_key")


def test_a_system_that_was_unverified_is_valid_as_soon_as_it_has_a_licence():
    assert after((0, UNKNOWN), (1, ONE)) == LicenceStatus(Advice.VALID, NOW + DAY, ONE)


def test_only_a_signed_list_revokes_and_losing_the_list_does_not_bring_the_licence_back():
    revoked = LicenceStatus(Advice.REVOKED, NOW + DAY, ONE, "licence_revoked")

    assert after((0, ONE), (1, TAKEN_BACK)) == revoked
    assert after((0, ONE), (1, TAKEN_BACK), (2, UNKNOWN), (3, ONE), (4, TAKEN_BACK)) == revoked


def test_a_licence_that_is_issued_again_ends_a_revocation():
    again = licence(2)

    assert after((1, TAKEN_BACK), (2, again)) == LicenceStatus(Advice.VALID, NOW + 2 * DAY, again)


@given(st.lists(st.tuples(st.integers(-400, 400), st.sampled_from([ONE, licence(2), UNKNOWN, EXPIRED]))))
def test_without_a_list_nothing_that_happens_is_worse_than_unverified(seen):
    state = after(*seen)

    assert state is None or state.advice is not Advice.REVOKED


@given(st.one_of(st.text(), st.binary()))
def test_looking_again_never_raises(token):
    assert check_licence(LicenceStatus(Advice.VALID, NOW, ONE), token, {}, NOW + DAY).advice is Advice.UNVERIFIED
