"""Faults of single tenants, injected into a running stack. Each ends with its repair."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fault_injection import Bed, Fault, Injected

RARE_TIER, SHORT_GRACE = "gold", "short-grace"
TIER = f"""  - tier: {RARE_TIER}
    placement: pooled
    cloud: local
    resources:
      - {{resource: secret.database}}
      - {{resource: database.main}}
      - {{resource: schema.main, in_database: database.main, tables: [documents]}}
      - {{resource: role.main, in_schema: schema.main, secret: secret.database, connection_limit: 10}}
"""
"""Tier of the stack's blueprint, which a fault removes."""
POOL_OF_FAULTS = "us-east"
"""Region whose pool loses its policy; all other tenants are in the default region."""


@contextmanager
def wrong_plan(bed: Bed) -> Iterator[Injected]:
    """The customer subscribes to a price that belongs to no plan."""
    tenant = bed.sign_up()
    customer = bed.account(tenant)["customer"]
    product = bed.stripe("POST", "/v1/products", name="Consulting")["id"]
    wrong = bed.stripe(
        "POST",
        "/v1/prices",
        product=product,
        currency="eur",
        unit_amount=bed.random.randrange(100, 9999),
        **{"recurring[interval]": bed.random.choice(["month", "year"])},
    )["id"]
    bed.fake.set_payment(customer, "succeed")
    subscription = bed.stripe("POST", "/v1/subscriptions", customer=customer, **{"items[0][price]": wrong})
    yield Injected(tenant["slug"])
    item = subscription["items"]["data"][0]["id"]
    right = {"items[0][id]": item, "items[0][price]": bed.price(tenant)}
    bed.stripe("POST", f"/v1/subscriptions/{subscription['id']}", **right)


@contextmanager
def card_declined(bed: Bed) -> Iterator[Injected]:
    """The bank refuses the first payment, or a renewal."""
    if bed.random.random() < 0.5:
        tenant = bed.sign_up()
        customer = bed.account(tenant)["customer"]
        bed.fake.set_payment(customer, "fail")
        found = bed.stripe("POST", "/v1/subscriptions", customer=customer, **{"items[0][price]": bed.price(tenant)})
        subscription = found["id"]
    else:
        tenant = bed.active(bed.random.choice(["starter", "team"]))
        subscription = _decline_renewal(bed, tenant)
    yield Injected(tenant["slug"])
    _collect(bed, subscription)


@contextmanager
def nobody_paid(bed: Bed) -> Iterator[Injected]:
    """The checkout is open."""
    tenant = bed.sign_up(bed.random.choice(["starter", "team", "business"]))
    yield Injected(tenant["slug"])
    bed.pay(tenant)


@contextmanager
def webhook_lost(bed: Bed) -> Iterator[Injected]:
    """No webhook about the payment arrives."""
    tenant = bed.sign_up(bed.random.choice(["starter", "team"]))
    bed.fake.faults(lose=1_000)
    bed.pay(tenant)
    bed.fake.faults(lose=0)
    yield Injected(tenant["slug"])


@contextmanager
def provider_refuses(bed: Bed) -> Iterator[Injected]:
    """The provider answers with an error when the customer is created, or refuses the coupon of the checkout."""
    if bed.random.random() < 0.5:
        bed.fake.fail_calls(1_000, status=bed.random.choice([429, 500, 503]), path="/v1/customers")
        try:
            yield Injected(_sign_up_without_checkout(bed))
        finally:
            bed.fake.fail_calls(0)
        return
    coupon = f"welcome{bed.random.randrange(10**9)}"
    tenant = bed.run("tenant", "show", _sign_up_without_checkout(bed, "--coupon", coupon), "--json").data
    yield Injected(tenant["id"], command="tenant offboard")  # by its id, because the command frees the slug


@contextmanager
def isolation_switched_off(bed: Bed) -> Iterator[Injected]:
    """Row-level security of a tenant's pool is switched off, or no longer forced."""
    tenant = _sign_up_in_pool(bed)
    bed.pay(tenant)
    bed.wait(lambda: bed.run("tenant", "show", tenant["slug"], "--json").data["status"] == "active", tenant)
    database = f"pool_{POOL_OF_FAULTS.replace('-', '_')}"
    off = bed.random.choice(["DISABLE", "NO FORCE"])
    bed.sql(database, f"ALTER TABLE product.documents {off} ROW LEVEL SECURITY")
    yield Injected(tenant["slug"], repair_first=True)
    bed.sql(
        database,
        "ALTER TABLE product.documents ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE product.documents FORCE ROW LEVEL SECURITY",
    )


@contextmanager
def held(bed: Bed) -> Iterator[Injected]:
    """An operator holds the tenant."""
    tenant = bed.active(bed.random.choice(["starter", "team"]))
    mode = bed.random.choice(["blocked", "read_only"])
    reason = f"abuse report {bed.random.randrange(1000)}"
    done = bed.run("tenant", "suspend", tenant["slug"], "--mode", mode, "--reason", reason, "--yes")
    assert done.code == 0, done.err
    yield Injected(tenant["slug"])


@contextmanager
def poisoned_fact(bed: Bed) -> Iterator[Injected]:
    """A constraint of a migration that failed half-way refuses the tenant's next state."""
    tenant = bed.sign_up()
    id_ = tenant["id"]
    service, table, row, status = bed.random.choice(
        [
            ("provisioner", "environments", f"env_{id_.removeprefix('ten_')}", "registered"),
            ("tenant", "tenants", id_, "requested"),
        ]
    )
    name = f"half_migrated_{row[-12:]}"
    bed.sql(
        service,
        f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK (id <> '{row}' OR state->>'status' = '{status}') NOT VALID",
    )
    bed.pay(tenant)
    yield Injected(tenant["slug"])
    bed.sql(service, f"ALTER TABLE {table} DROP CONSTRAINT {name}")


@contextmanager
def expired_checkout(bed: Bed) -> Iterator[Injected]:
    """The checkout expired before it was paid."""
    tenant = bed.sign_up(bed.random.choice(["starter", "team", "business"]))
    bed.stripe("POST", f"/v1/checkout/sessions/{tenant['checkout_url'].rpartition('/')[2]}/expire")
    yield Injected(tenant["slug"])


@contextmanager
def debt(bed: Bed) -> Iterator[Injected]:
    """A renewal is not paid within the grace period."""
    tenant = bed.active(SHORT_GRACE)
    subscription = _decline_renewal(bed, tenant)
    yield Injected(tenant["slug"])
    _collect(bed, subscription)


@contextmanager
def unknown_tier(bed: Bed) -> Iterator[Injected]:
    """The blueprint lost the tier of the plan after the sign-up."""
    tenant = bed.sign_up(RARE_TIER)
    complete = blueprint_of(bed.stack.data_dir).read_text()
    _publish(bed, complete.replace(TIER, ""))
    bed.pay(tenant)
    yield Injected(tenant["slug"])
    _publish(bed, complete)


def blueprint_of(data_dir: Path) -> Path:
    """Returns the path of the stack's blueprint."""
    return data_dir / "blueprints.yaml"


def _publish(bed: Bed, blueprint: str) -> None:
    """Publishes a blueprint as the next version."""
    shown = bed.run("blueprint", "show", "standard", "--json").data["content"]
    file = bed.stack.data_dir / "next-blueprints.yaml"
    file.write_text(re.sub(r"^version: .*$", f"version: {shown['version'] + 1}", blueprint, flags=re.MULTILINE))
    done = bed.run("blueprint", "publish", str(file), "--yes")
    assert done.code == 0, done.err


def _decline_renewal(bed: Bed, tenant: dict[str, object]) -> str:
    account = bed.account(tenant)
    subscription = str(account["subscriptions"][0]["provider_subscription"])
    bed.fake.set_payment(account["customer"], "fail")
    bed.fake.renew(subscription)
    return subscription


def _collect(bed: Bed, subscription: str) -> None:
    """Pays the open invoice, as the customer does in the portal."""
    invoice = bed.stripe("GET", f"/v1/subscriptions/{subscription}")["latest_invoice"]
    bed.fake.pay_invoice(invoice)


def _sign_up_without_checkout(bed: Bed, *options: str) -> str:
    """Signs up where billing cannot open a checkout: the command fails when it is refused, or waits for a second."""
    slug = f"refused-{bed.random.randrange(10**9)}"
    arguments = ("--plan", "starter", "--region", "eu-central", "--email", "ops@acme.example", "--timeout", "1")
    done = bed.run("tenant", "create", slug, *arguments, *options)
    assert f"{slug} is requested" in done.err, done.err
    return slug


def _sign_up_in_pool(bed: Bed) -> dict[str, object]:
    slug = f"pooled-{bed.random.randrange(10**9)}"
    arguments = ("--plan", "starter", "--region", POOL_OF_FAULTS, "--email", "ops@acme.example", "--json")
    done = bed.run("tenant", "create", slug, *arguments)
    assert done.code == 0, done.err
    return dict(done.data)


FAULTS = (
    Fault(wrong_plan, "sync", "webhook retry"),
    Fault(card_declined, "card_declined", "tenant portal"),
    Fault(nobody_paid, "not_paid", "tenant checkout"),
    Fault(webhook_lost, "webhook_lost", "provider reconcile"),
    Fault(held, "hold", "tenant resume"),
    Fault(poisoned_fact, "message", "events redrive"),
    Fault(expired_checkout, "checkout_expired", "tenant checkout"),
    Fault(debt, "debt", "tenant portal"),
    Fault(unknown_tier, "plan_refused", "blueprint list"),
    Fault(isolation_switched_off, "isolation", "cell list"),
    Fault(provider_refuses, "provider", "jobs retry"),
)
"""Faults that are in effect at the same time, each of its own tenant."""
