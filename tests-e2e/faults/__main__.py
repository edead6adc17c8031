"""`python -m faults SERVICE [--die-at POINT:N | --stop-at POINT:N] [--plant BUG] [--no-polling]`: a service, broken.

`python -m faults nursery` waits for lines of JSON and forks such a process for each, so that none has to import all.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence

from faults import bugs, nursery, points, probe


def run(arguments: Sequence[str]) -> None:
    """Arm and plant, then be the service; returns only by SystemExit."""
    parser = argparse.ArgumentParser(prog="faults")
    parser.add_argument("service", help="tenant, billing, provisioner or probe")
    parser.add_argument("--die-at", metavar="POINT:N", help=f"one of {', '.join(points.POINTS)}")
    parser.add_argument("--stop-at", metavar="POINT:N", help="as --die-at, but only stop there, until SIGCONT")
    parser.add_argument("--plant", choices=sorted(bugs.BUGS))
    parser.add_argument("--no-polling", action="store_true", help="loops have to be woken")
    asked = parser.parse_args(arguments)
    if asked.no_polling:
        bugs.without_polling()
    # Points first: a bug wraps around them, so that a process can die between what the bug does and what is right.
    for how, point in (("die", asked.die_at), ("stop", asked.stop_at)):
        if point:
            name, _, occurrence = point.partition(":")
            points.arm(name, int(occurrence or 1), how)
    if asked.plant:
        bugs.BUGS[asked.plant]()
    sys.argv = [asked.service]
    if asked.service == "probe":
        probe.main()
    else:
        runpy.run_module(f"paybill_{asked.service}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["nursery"]:
        nursery.serve(run)
    else:
        run(sys.argv[1:])
