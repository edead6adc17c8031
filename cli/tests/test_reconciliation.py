"""The exit code of `paybill provider reconcile` says whether a difference is left."""

from paybill_cli.exit_codes import ExitCode
from polling import until


def test_repaired_differences_are_no_failure(on_stack, customers) -> None:
    tenant = customers.sign_up()
    customers.pay(tenant["checkout_url"])
    show = ("subscription", "show", tenant["slug"], "--json")
    until(lambda: on_stack(*show).code == ExitCode.OK)
    subscription = on_stack(*show).data

    with customers.fake() as fake:
        fake.wait_delivered()
        fake.pause_delivery()
        try:
            for _ in range(5):  # a sync that waits since before the pause may still see a renewal
                fake.renew(subscription["provider_subscription"])
                dry = on_stack("provider", "reconcile", "--dry-run", "--json")
                repaired = on_stack("provider", "reconcile", "--json")
                found = [
                    each for each in repaired.data if each["provider_object"] == subscription["provider_subscription"]
                ]
                if found:
                    break
        finally:
            fake.resume_delivery()

    assert dry.code == ExitCode.FAILED
    assert [drift["repaired"] for drift in found] == [True]
    assert repaired.code == (ExitCode.OK if all(drift["repaired"] for drift in repaired.data) else ExitCode.FAILED)
