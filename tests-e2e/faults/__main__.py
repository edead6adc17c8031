"""Runs a service with injected faults: `python -m faults SERVICE [--die-at POINT:N | --stop-at POINT:N] [--bug BUG]`.

`python -m faults fork-server` forks such a process for each line of JSON, so that no process repeats the imports.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence

from faults import bugs, failpoints, fork_server, probe


def run(arguments: Sequence[str]) -> None:
    """Arms failpoints, injects bugs and runs the service; returns only by SystemExit."""
    parser = argparse.ArgumentParser(prog="faults")
    parser.add_argument("service", help="tenant, billing, provisioner, agent-gateway or probe")
    parser.add_argument("--die-at", metavar="POINT:N", help=f"one of {', '.join(failpoints.FAILPOINTS)}")
    parser.add_argument("--stop-at", metavar="POINT:N", help="as --die-at, but stops the process there until SIGCONT")
    parser.add_argument("--bug", choices=sorted(bugs.BUGS))
    parser.add_argument("--no-polling", action="store_true", help="loops rely on wake-ups alone")
    options = parser.parse_args(arguments)
    if options.no_polling:
        bugs.disable_polling()
    # Failpoints first: a bug wraps around them, so that a process can die between the bug's action and the original
    # one.
    for how, point in (("die", options.die_at), ("stop", options.stop_at)):
        if point:
            name, _, occurrence = point.partition(":")
            failpoints.arm(name, int(occurrence or 1), how)
    if options.bug:
        bugs.BUGS[options.bug]()
    sys.argv = [options.service]
    if options.service == "probe":
        probe.main()
    else:
        runpy.run_module(f"paybill_{options.service.replace('-', '_')}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["fork-server"]:
        fork_server.serve(run)
    else:
        run(sys.argv[1:])
