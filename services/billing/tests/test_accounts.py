"""An account follows its tenant: opened once, closed when an operator offboards the tenant."""

import pytest
from billing_samples import CATALOGUE, EMAIL, NOW, REQUESTED, TENANT
from paybill_billing.catalogue.domain.catalogue import UnknownPlanError
from paybill_billing.providers.domain import Choice, UnknownProviderError, configure, evolve
from paybill_billing.providers.port.snapshots import OpenedAccount
from paybill_billing.subscriptions.domain import accounts
from paybill_billing.subscriptions.domain.accounts import AccountOrderError, NoCheckoutError, NoSuchPriceError, Status
from paybill_contracts.billing import AccountAdopted, AccountFailed, AccountOpened, CancellationRequested
from paybill_contracts.catalogue import Interval
from paybill_contracts.purchases import FIRST_PRICE, PurchaseTerms
from paybill_contracts.tenant import HoldOrigin, OffboardingStarted, ReturnRuledOut

CHOICE = Choice("providers", ("manual", "stripe"), "stripe", "a" * 64)
AT_PROVIDER = OpenedAccount(customer="cus_1", checkout="cs_1", checkout_url="https://pay.example/cs_1")


def fold(state, events):
    for event in events:
        state = accounts.evolve(state, event)
    return state


def leaving(origin):
    return OffboardingStarted(tenant_id=TENANT, origin=origin, reason="bye", retain_until=NOW)


OPENING = fold(None, accounts.on_tenant_requested(None, CATALOGUE, CHOICE, REQUESTED))
OPEN = fold(OPENING, accounts.opened(OPENING, AT_PROVIDER))


def test_a_new_tenant_is_registered_for_the_newest_version_of_its_plan():
    assert (OPENING.plan, OPENING.plan_version, OPENING.status) == ("pro", 2, Status.OPENING)
    assert OPENING.contact_email == EMAIL


def test_a_tenant_is_registered_once():
    assert accounts.on_tenant_requested(OPENING, CATALOGUE, CHOICE, REQUESTED) == []


def test_a_plan_that_is_not_sold_is_refused():
    with pytest.raises(UnknownPlanError):
        accounts.on_tenant_requested(None, CATALOGUE, CHOICE, REQUESTED.model_copy(update={"plan": "gold"}))


def test_a_tenant_pays_at_its_chosen_provider_or_at_the_default():
    wants = REQUESTED.model_copy(update={"payment": "manual"})
    (registered,) = accounts.on_tenant_requested(None, CATALOGUE, CHOICE, wants)

    assert (registered.provider, OPENING.provider) == ("manual", "stripe")


def test_an_unknown_provider_is_refused():
    with pytest.raises(UnknownProviderError, match="choose one of manual, stripe"):
        accounts.on_tenant_requested(None, CATALOGUE, CHOICE, REQUESTED.model_copy(update={"payment": "gold"}))


def test_the_coupon_of_a_sign_up_is_for_its_first_subscription():
    terms = PurchaseTerms(interval=Interval.MONTH, currency="EUR", quantity=3, coupon="SPRING")
    account = fold(
        None, accounts.on_tenant_requested(None, CATALOGUE, CHOICE, REQUESTED.model_copy(update={"terms": terms}))
    )

    assert accounts.sold_terms(account) == terms
    assert accounts.sold_terms(account, is_first=False) == terms.model_copy(update={"coupon": None})
    assert accounts.sold_terms(OPENING) == FIRST_PRICE


def test_a_price_that_is_no_longer_sold_is_refused():
    terms = PurchaseTerms(interval=Interval.YEAR)
    with pytest.raises(NoSuchPriceError, match=r"its prices: 20\.00 EUR per month"):
        accounts.on_tenant_requested(None, CATALOGUE, CHOICE, REQUESTED.model_copy(update={"terms": terms}))


def test_configuring_the_same_providers_again_emits_nothing():
    (configured,) = configure(None, ["stripe", "manual"], "manual")
    choice = evolve(None, configured)

    assert (choice.names, choice.default) == (("manual", "stripe"), "manual")
    assert configure(choice, ["manual", "stripe"], "manual") == []
    assert len(configure(choice, ["manual", "stripe"], "stripe")) == 1


def test_an_opened_account_has_a_checkout():
    assert OPEN.status is Status.OPEN
    assert OPEN.checkout_url == "https://pay.example/cs_1"


def test_opening_twice_emits_nothing():
    assert accounts.opened(OPEN, AT_PROVIDER) == []


def test_a_refused_account_can_still_be_opened_later():
    (refused,) = accounts.failed(OPENING, "no such currency")
    state = accounts.evolve(OPENING, refused)

    assert isinstance(refused, AccountFailed)
    assert accounts.failed(state, "again") == []
    assert fold(state, accounts.opened(state, AT_PROVIDER)).failure is None


def test_an_open_account_cannot_fail():
    assert accounts.failed(OPEN, "late") == []


def test_an_offboarded_tenant_is_cancelled_at_the_provider_once():
    (event,) = accounts.on_tenant_leaving(OPEN, leaving(HoldOrigin.OPERATOR))

    assert event == CancellationRequested(tenant_id=TENANT, provider="stripe", customer="cus_1")
    assert accounts.on_tenant_leaving(accounts.evolve(OPEN, event), leaving(HoldOrigin.OPERATOR)) == []


def test_an_account_without_a_return_is_cancelled_and_opens_no_checkout():
    closed = fold(OPEN, accounts.on_tenant_leaving(OPEN, leaving(HoldOrigin.BILLING)))
    (event,) = accounts.on_tenant_leaving(closed, ReturnRuledOut(tenant_id=TENANT, reason="fraud"))

    assert event == CancellationRequested(tenant_id=TENANT, provider="stripe", customer="cus_1")
    with pytest.raises(NoCheckoutError, match="is leaving"):
        accounts.require_checkout(accounts.evolve(closed, event), ())


def test_a_tenant_that_left_before_its_account_opened_is_cancelled_after_it():
    state = fold(OPENING, accounts.on_tenant_leaving(OPENING, leaving(HoldOrigin.OPERATOR)))

    opened, cancelled = accounts.opened(state, AT_PROVIDER)

    assert isinstance(opened, AccountOpened)
    assert cancelled == CancellationRequested(tenant_id=TENANT, provider="stripe", customer="cus_1")


def test_a_tenant_without_an_account_has_nothing_to_cancel():
    assert accounts.on_tenant_leaving(None, leaving(HoldOrigin.BILLING)) == []
    assert accounts.on_tenant_leaving(None, leaving(HoldOrigin.OPERATOR)) == []


def test_an_adopted_tenant_keeps_its_customer_and_has_no_checkout():
    (registered,) = accounts.on_tenant_requested(
        None, CATALOGUE, CHOICE, REQUESTED.model_copy(update={"customer": "cus_9"})
    )
    opening = accounts.evolve(None, registered)

    state = fold(opening, accounts.adopted(opening, "cus_9"))

    assert (opening.adopts, opening.customer) == ("cus_9", None)
    assert (state.status, state.customer, state.checkout_url) == (Status.OPEN, "cus_9", None)
    assert accounts.adopted(state, "cus_9") == []


def test_a_customer_that_left_during_its_adoption_is_cancelled():
    state = fold(OPENING, accounts.on_tenant_leaving(OPENING, leaving(HoldOrigin.OPERATOR)))

    adopted, cancelled = accounts.adopted(state, "cus_9")

    assert isinstance(adopted, AccountAdopted)
    assert cancelled == CancellationRequested(tenant_id=TENANT, provider="stripe", customer="cus_9")


def test_an_account_begins_with_its_registration():
    with pytest.raises(AccountOrderError):
        accounts.evolve(None, accounts.opened(OPENING, AT_PROVIDER)[0])
