"""Faults for the suites that kill: failpoints, planted bugs, replicas that come and go, and the oracle that judges.

Production code holds no switch that breaks it. Whatever is broken here is broken from outside: a process of a service
is started through `python -m faults`, which first wraps functions of the runtime and then runs the service's own
command line. What it wraps has to be there, or it refuses to start.
"""
