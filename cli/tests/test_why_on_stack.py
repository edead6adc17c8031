"""`paybill why` finds many kinds of faults in a running stack, and the command that it names helps.

PAYBILL_TEST_WHY_VARIATIONS sets the random variations of each kind (default 1); PAYBILL_TEST_WHY_SEED repeats a run,
whose seed is printed.
"""

import faulthandler
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.resources import files
from random import Random

import pytest
import stack_faults
import tenant_faults
from fault_injection import Bed, Fault, Record

VARIATIONS = int(os.environ.get("PAYBILL_TEST_WHY_VARIATIONS", "1"))
SEED = int(os.environ.get("PAYBILL_TEST_WHY_SEED", "0")) or secrets.randbelow(2**32)
TIMEOUT_S = 300

pytestmark = pytest.mark.e2e

_SOLD = """
  - plan: {plan}
    version: 1
    name: {plan}
    tier: {tier}
    placement: pooled
    grace: {grace}
    retention: 30d
    features: []
    prices:
      - {{minor: 2900, currency: EUR, interval: month}}
"""


@pytest.fixture(scope="module")
def real_stack(tmp_path_factory, run_stack):
    """Runs a stack of its own, with one more tier, and with plans for two faults."""
    data_dir = tmp_path_factory.mktemp("why")
    blueprint = tenant_faults.blueprint_of(data_dir)
    tiers = (files("paybill_provisioner") / "blueprints.yaml").read_text()
    blueprint.write_text(tiers.replace("tiers:\n", f"tiers:\n{tenant_faults.TIER}"))
    plans = [_SOLD.format(plan=tenant_faults.SHORT_GRACE, tier="starter", grace="1s")]
    plans.append(_SOLD.format(plan=tenant_faults.RARE_TIER, tier=tenant_faults.RARE_TIER, grace="7d"))
    catalogue = data_dir / "plans.yaml"
    catalogue.write_text((files("paybill_billing") / "plans.yaml").read_text() + "".join(plans))
    with run_stack(data_dir, "--catalogue", catalogue, "--blueprints", blueprint) as stack:
        yield stack


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    """Prints the seed and the measurements at the end."""
    record = Record()
    yield record
    sys.stdout.write("\n".join([f"\nPAYBILL_TEST_WHY_SEED={SEED}", *record.lines(), ""]))


@pytest.fixture(autouse=True)
def _longer_timeout() -> None:
    """Waits longer than other tests: some faults show only when leases or timeouts end."""
    faulthandler.dump_traceback_later(TIMEOUT_S, exit=True, file=sys.__stderr__)


@pytest.fixture
def make_bed(real_stack, on_stack, customers) -> Iterator[Callable[[str, int], Bed]]:
    """Returns `make_bed(name, variation)`."""
    with customers.fake() as fake:

        def make(name: str, variation: int) -> Bed:
            random = Random(f"{SEED}/{name}/{variation}")
            return Bed(real_stack, on_stack, customers, fake, random)

        yield make


@pytest.mark.parametrize("variation", range(VARIATIONS))
def test_faults_of_many_tenants_at_the_same_time_each_have_their_cause(make_bed, record, variation) -> None:
    with ExitStack() as repairs:
        injected = []
        for fault in tenant_faults.FAULTS:
            bed, repair = make_bed(fault.name, variation), repairs.enter_context(ExitStack())
            injected.append((fault, bed, repair, repair.enter_context(fault.inject(bed))))
        began = time.monotonic()
        explained = []
        for fault, bed, _, found in injected:
            explained.append(bed.why_when(found, fault.cause))
            record.add(fault, time.monotonic() - began)
        for (fault, bed, repair, found), done in zip(injected, explained, strict=True):
            _run_next(fault, bed, repair, found, done)


@pytest.mark.parametrize("variation", range(VARIATIONS))
@pytest.mark.parametrize("fault", stack_faults.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_of_the_stack_is_the_root_cause(make_bed, record, fault: Fault, variation) -> None:
    bed = make_bed(fault.name, variation)
    with ExitStack() as repair:
        found = repair.enter_context(fault.inject(bed))
        began = time.monotonic()
        done = bed.why_when(found, fault.cause)
        record.add(fault, time.monotonic() - began)
        _run_next(fault, bed, repair, found, done)


def _run_next(fault, bed, repair, found, done) -> None:
    """Runs the next command before or after the repair, and waits until the cause has gone."""
    assert (found.command or fault.command) in done.data["next"]
    if found.repair_first:
        repair.close()
    ran = bed.run_next(done, found)
    assert ran.code == fault.exit_code, (fault.name, done.data["next"], ran.out, ran.err)
    repair.close()
    bed.wait_without(found, fault.cause)
