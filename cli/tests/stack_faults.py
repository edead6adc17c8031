"""Faults of the whole stack, injected one after another. Each ends with its repair."""

import hashlib
import hmac
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from fault_injection import HTTP, Bed, Fault, Injected
from paybill_cli.exit_codes import ExitCode
from paybill_embedded.databases import DRIVER_ROLE
from paybill_runtime.testing import stop_processes

SERVICES = ("tenant", "billing", "provisioner", "agent-gateway")
WEBHOOK_ENDPOINT = "we_commandline"
HALF_AN_HOUR_S = 1800
_ALTER = """
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT rolname FROM pg_roles WHERE rolname LIKE '{roles}' LOOP
        EXECUTE format('ALTER ROLE %I {change}', name);
    END LOOP;
END $$
"""


@contextmanager
def driver_without_rights(bed: Bed) -> Iterator[Injected]:
    """The login of the driver may create no databases, or its roles may create no logins."""
    plan, right = bed.random.choice([("starter", "CREATEROLE"), ("business", "CREATEROLE"), ("business", "CREATEDB")])
    tenant = bed.sign_up(plan)
    roles = DRIVER_ROLE if right == "CREATEDB" else f"{DRIVER_ROLE}%"
    bed.sql("postgres", _ALTER.format(roles=roles, change=f"NO{right}"))
    try:
        bed.pay(tenant)
        yield Injected(tenant["slug"])
    finally:
        bed.sql("postgres", _ALTER.format(roles=roles, change=right))


@contextmanager
def capacity(bed: Bed) -> Iterator[Injected]:
    """The server of tenants' databases has no connection left for the driver."""
    tenant = bed.sign_up(bed.random.choice(["starter", "team", "business"]))
    bed.sql(
        "postgres",
        f"ALTER ROLE {DRIVER_ROLE} CONNECTION LIMIT 0",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{DRIVER_ROLE}'",
    )
    try:
        bed.pay(tenant)
        yield Injected(tenant["slug"])
    finally:
        bed.sql("postgres", f"ALTER ROLE {DRIVER_ROLE} CONNECTION LIMIT -1")


@contextmanager
def disk_full(bed: Bed) -> Iterator[Injected]:
    """The file system of tenants' files, or of secrets, is full: a small one is mounted over the folder."""
    folder = bed.stack.data_dir / bed.random.choice(["local", "secrets"])
    tenant = bed.sign_up(bed.random.choice(["starter", "team"]))
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=1,mode=0700", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"NO FULL DISK HERE: {done.stderr.strip()}")
    try:
        bed.pay(tenant)
        yield Injected(tenant["slug"])
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def unknown_customer(bed: Bed) -> Iterator[Injected]:
    """Somebody paid as another customer of the provider."""
    tenant = bed.sign_up()
    stranger = bed.stripe("POST", "/v1/customers", email="someone@other.example")["id"]
    bed.fake.set_payment(stranger, "succeed")
    found = bed.stripe("POST", "/v1/subscriptions", customer=stranger, **{"items[0][price]": bed.price(tenant)})
    yield Injected(tenant["slug"])
    done = bed.run("webhook", "dismiss", found["id"], "--reason", "not ours", "--yes")
    assert done.code == 0, done.err


@contextmanager
def wrong_secret(bed: Bed) -> Iterator[Injected]:
    """Webhooks are signed with another secret: of another endpoint, or because billing has a wrong one."""
    tenant = bed.sign_up()
    with ExitStack() as repairs:
        if bed.random.random() < 0.5:
            other = {"url": f"{bed.stack.url('billing')}/webhooks/stripe", "enabled_events[]": "*"}
            endpoint = bed.stripe("POST", "/v1/webhook_endpoints", **other)["id"]
            bed.stripe("POST", f"/v1/webhook_endpoints/{WEBHOOK_ENDPOINT}", disabled="true")
            repairs.callback(bed.stripe, "POST", f"/v1/webhook_endpoints/{WEBHOOK_ENDPOINT}", disabled="false")
            repairs.callback(bed.stripe, "DELETE", f"/v1/webhook_endpoints/{endpoint}")
        else:
            path = bed.stack.data_dir / "credentials" / "stripe-webhook-secrets"
            right = path.read_text()
            path.write_text(f"whsec_{bed.random.randrange(10**18)}\n")
            repairs.callback(bed.restart, "billing")
            repairs.callback(path.write_text, right)
            bed.restart("billing")
        bed.pay(tenant)
        yield Injected(tenant["slug"])
    bed.pay(bed.sign_up())  # a message that is accepted ends the alarm
    done = bed.run("provider", "reconcile", "stripe")
    assert done.code == 0, done.out


@contextmanager
def clock_skew(bed: Bed) -> Iterator[Injected]:
    """The clock of a service's replica, or that of the provider, is wrong."""
    tenant = bed.sign_up()
    if bed.random.random() < 0.5:
        service, skew_s = bed.random.choice(SERVICES[1:]), bed.random.choice([-400, -30, 60, 900])
        with bed.replica_with_wrong_clock(service, skew_s) as url:
            yield Injected(tenant["slug"], (f"--{service}-url", url))
        return
    secret = (bed.stack.data_dir / "credentials" / "stripe-webhook-secrets").read_text().split()[0]
    signed_at = int(time.time()) + bed.random.choice([-HALF_AN_HOUR_S, HALF_AN_HOUR_S])
    signature = hmac.new(secret.encode(), f"{signed_at}.{{}}".encode(), hashlib.sha256).hexdigest()
    bed.fake.wait_delivered(timeout_s=60)  # a message that is accepted later would end the alarm
    for _ in range(bed.random.randrange(1, 5)):
        response = HTTP.post(
            f"{bed.stack.url('billing')}/webhooks/stripe",
            content=b"{}",
            headers={"stripe-signature": f"t={signed_at},v1={signature}"},
        )
        assert response.is_client_error
    yield Injected(tenant["slug"])
    bed.pay(tenant)  # a message that is accepted ends the alarm


@contextmanager
def stale_lease(bed: Bed) -> Iterator[Injected]:
    """The heartbeats of a service wait for the lock of another session, such as a backup, until its leases end."""
    tenant = bed.active()
    mode = bed.random.choice(["SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE"])
    with bed.locked(bed.random.choice(SERVICES), f"LOCK TABLE chassis.member IN {mode} MODE"):
        yield Injected(tenant["slug"])


@contextmanager
def database_down(bed: Bed) -> Iterator[Injected]:
    """PostgreSQL has ended and another program took its port, or it refuses the connections of one service."""
    tenant = bed.sign_up()
    if bed.random.random() < 0.5:
        service = bed.random.choice(SERVICES)
        bed.sql(
            "postgres",
            f'ALTER DATABASE "{service}" CONNECTION LIMIT 0',
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{service}'",
        )
        try:
            yield Injected(tenant["slug"])
        finally:
            bed.sql("postgres", f'ALTER DATABASE "{service}" CONNECTION LIMIT -1')
        return
    pid = int((bed.stack.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, bed.random.choice([signal.SIGKILL, signal.SIGQUIT, signal.SIGINT]))
    with bed.occupied(bed.postgres_port):
        yield Injected(tenant["slug"])


@contextmanager
def bus_hung(bed: Bed) -> Iterator[Injected]:
    """NATS is stopped: its connections stay open, and it answers nothing; a fact waits, or the stack is idle."""
    tenant = bed.active()
    pid = int((bed.stack.data_dir / "nats.lock").read_text().split()[0])
    stop_processes([pid])
    try:
        if bed.random.random() < 0.5:
            done = bed.run("tenant", "suspend", tenant["slug"], "--reason", "a fact to publish", "--yes")
            assert done.code == 0, done.err
        yield Injected(tenant["slug"])
    finally:
        os.kill(pid, signal.SIGCONT)


FAULTS = (
    Fault(unknown_customer, "unknown_customer", "webhook waiting"),
    Fault(wrong_secret, "signature", "webhook refused"),
    Fault(clock_skew, "clock", "doctor", exit_code=ExitCode.FAILED),
    Fault(driver_without_rights, "build", "jobs retry"),
    Fault(capacity, "build", "jobs retry"),
    Fault(disk_full, "disk", "doctor", exit_code=ExitCode.FAILED),
    Fault(bus_hung, "bus", "doctor", exit_code=ExitCode.FAILED),
    Fault(stale_lease, "lease", "doctor", exit_code=ExitCode.FAILED),
    Fault(database_down, "database", "doctor", exit_code=ExitCode.FAILED),
)
"""Faults of the stack, each with the tenant about which an operator asks."""
