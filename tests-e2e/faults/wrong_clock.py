"""Runs a service whose clock is wrong by some seconds: `wrong_clock.py SERVICE SECONDS`."""

import sys
import time
from datetime import datetime, timedelta
from importlib import import_module

from paybill_runtime import clock


def main(service: str, skew_s: int) -> None:
    """Moves the clock of this process, then runs the service."""
    real_s, real_ns, real_now = time.time, time.time_ns, clock.now

    def now() -> datetime:
        return real_now() + timedelta(seconds=skew_s)

    vars(time).update(time=lambda: real_s() + skew_s, time_ns=lambda: real_ns() + skew_s * 1_000_000_000)
    vars(clock)["now"] = now
    run = import_module("paybill_runtime.main").run
    run(import_module(f"paybill_{service.replace('-', '_')}.app").service())


if __name__ == "__main__":
    name, seconds = sys.argv.pop(1), int(sys.argv.pop(1))
    main(name, seconds)
