"""Recipes of Stripe's own command line: documented sequences of API calls that lead to an event; replayed here."""

import json
import re
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
import stripe

ROOT = next(folder for folder in Path(__file__).parents if (folder / "requirements.lock").exists())
RECIPES = ROOT.parent / "shared" / "fixtures" / "stripe" / "stripe-cli-triggers"
ABSENT = "Stripe's recipes are not beside the repository (../shared/fixtures/stripe/stripe-cli-triggers)"

OUT_OF_SCOPE = {
    "account": "connected accounts",
    "balance": "payouts",
    "cash_balance": "bank transfers",
    "charge.captured": "payments that are authorised first",
    "checkout.session.async": "direct debits",
    "coupon": "coupons",
    "credit_note": "credit notes",
    "customer.discount": "coupons",
    "customer.source": "sources, which came before payment methods",
    "identity": "identity checks",
    "issuing": "cards that are issued",
    "payment_intent.amount_capturable_updated": "payments that are authorised first",
    "payment_intent.partially_funded": "bank transfers",
    "payment_intent.processing": "direct debits",
    "payment_link": "payment links",
    "payment_method.updated": "setup intents",
    "payout": "payouts",
    "plan": "plans, which came before prices",
    "promotion_code": "coupons",
    "quote": "quotes",
    "reporting": "reports",
    "setup_intent": "setup intents",
    "tax_rate": "taxes",
    "test_helpers": "Stripe's test clocks; the Stripe fake has one clock for the account",
    "topup": "payouts",
    "transfer": "connected accounts",
}
"""Families of recipes outside of the implemented part of billing, and their subjects."""
NAMED_OTHERWISE = {
    "subscription.payment_failed": "invoice.payment_failed",
    "subscription.payment_succeeded": "invoice.payment_succeeded",
}
NOT_BILLED_HERE = {"payment_intent_data"}
"""Replaced values of recipes for one-time payments; their checkout is replayed as one for a subscription."""
THEIR_CLOCK = 1_577_836_800
"""Start time of recipes with a test clock; the replay starts now."""


def family(name):
    return next(
        (family_name for family_name in OUT_OF_SCOPE if name == family_name or name.startswith(family_name)), None
    )


def in_scope():
    names = sorted(path.stem for path in RECIPES.glob("*.json"))
    return [name for name in names if family(name) is None] or [pytest.param("", marks=pytest.mark.skip(ABSENT))]


@pytest.fixture(scope="module")
def recipe_fake(launch, tmp_path_factory):
    # Recipes with a clock have no card, and expect no delays.
    process = launch(tmp_path_factory.mktemp("recipes"), None, "--when-retries-fail", "past_due")
    yield process
    assert process.stop() == 0


class Replay:
    """Runs the steps of one recipe, and substitutes earlier responses for `${name:path}`."""

    def __init__(self, fake):
        self.fake = fake
        self.responses = {}
        # Slightly after now, so that a start time is not past when the request arrives.
        self.began = fake.control.clock()["now"] + 60
        self.clocked = False

    def run(self, recipe):
        self.clocked = any("test_clocks" in step["path"] for step in recipe["fixtures"])
        for step in recipe["fixtures"]:
            path = self.filled(step["path"])
            params = self.filled(step.get("params") or {})
            self.responses[step["name"]] = self.call(step, path, params)

    def call(self, step, path, params):
        if path == "/v1/test_helpers/test_clocks":
            return {"id": "clock_ours"}
        if path.startswith("/v1/test_helpers/test_clocks/"):
            self.fake.http.post("/fake/clock/advance", json={"to": params["frozen_time"]}).raise_for_status()
            return {}
        if path.startswith("/v1/payment_pages/"):
            return self.pay(path) if path.endswith("/confirm") else {}
        if path.startswith("/v2/"):
            headers = {key: self.filled(value) for key, value in step.get("headers", {}).items()}
            response = self.fake.http.post(path, json=params, headers=headers)
        else:
            response = self.fake.http.request(step["method"].upper(), path, **self.encoded(step, path, params))
        expected = step.get("expected_error_type")
        if response.is_error:
            assert response.json()["error"]["type"] == expected, (path, response.text)
        return response.json()

    def pay(self, path):
        return self.fake.control.pay_checkout(path.split("/")[3])

    def encoded(self, step, path, params):
        params = {key: value for key, value in params.items() if key != "test_clock"}
        if path == "/v1/checkout/sessions":
            params = {key: value for key, value in params.items() if key not in NOT_BILLED_HERE}
            params["mode"] = "subscription"
        if path == "/v1/prices" and not any(key.startswith("recurring") for key in params):
            params["recurring"] = {"interval": "month"}
        pairs = list(stripe._encode._api_encode(params))
        if step["method"] == "get":
            return {"params": pairs}
        return {"data": dict(pairs)}

    def filled(self, value):
        match value:
            case dict():
                return {key: self.filled(inner) for key, inner in value.items()}
            case list():
                return [self.filled(inner) for inner in value]
            case str():
                return re.sub(r"\$\{([^}]+)\}", lambda match: self.named(match[1]), value)
            case int() if self.clocked and value >= THEIR_CLOCK:
                return value - THEIR_CLOCK + self.began
            case _:
                return value

    def named(self, reference):
        if reference == "generate-uuid":
            return str(uuid.uuid4())
        if reference == "time-now-RFC3339":
            return datetime.fromtimestamp(time.time(), tz=UTC).isoformat()
        name, path = reference.split(":")
        value = self.responses[name]
        for step in path.split("."):
            value = value[int(step) if step.isdigit() else step]
        return str(value)


def happened(fake):
    snapshots = {event["type"] for event in fake.http.get("/v1/events", params={"limit": 100}).json()["data"]}
    thin = {event["type"] for event in fake.http.get("/v2/core/events", params={"limit": 100}).json()["data"]}
    return snapshots | thin


@pytest.mark.parametrize("name", in_scope())
def test_a_recipe_leads_to_the_event_that_it_is_named_after(recipe_fake, name):
    fake = recipe_fake
    fake.control.reset()
    Replay(fake).run(json.loads((RECIPES / f"{name}.json").read_text()))
    if name == "subscription_schedule.expiring":
        # Its clock stops nine days before the end, whereas Stripe's documentation says seven.
        fake.http.post("/fake/clock/advance", json={"days": 2}).raise_for_status()

    assert NAMED_OTHERWISE.get(name, name) in happened(fake)


def test_every_recipe_is_replayed_or_out_of_scope():
    if not RECIPES.exists():
        pytest.skip(ABSENT)
    left_out = {}
    for path in sorted(RECIPES.glob("*.json")):
        if family_name := family(path.stem):
            left_out.setdefault(family_name, []).append(path.stem)
    for family_name, names in left_out.items():
        print(f"out of scope, {OUT_OF_SCOPE[family_name]}: {', '.join(names)}")  # noqa: T201 - read with -rP

    assert left_out.keys() == OUT_OF_SCOPE.keys()
    replayed = [name for name in in_scope() if isinstance(name, str)]
    assert len(replayed) >= 50
    assert len(replayed) + sum(map(len, left_out.values())) == len(list(RECIPES.glob("*.json")))
