"""Fault injection for the crash tests: failpoints, injected bugs, replicas that join and leave, and invariant checks.

Production code contains no switch for faults; they are injected from outside. `python -m faults` starts a process of a
service: it first wraps functions of the runtime and then runs the service's own command line. It refuses to start when
a function to wrap is missing.
"""
