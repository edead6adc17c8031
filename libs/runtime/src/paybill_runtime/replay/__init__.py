"""Replay of the log.

Guarantees: a verification changes nothing and may run beside the service; it reports every difference between the log,
the outbox and the tables; a rebuild writes all tables in one transaction, and only from a log without differences.

Public modules: `verify` (`replay`), `process` (several services, with a second process), `command`, `report`. Nothing
is imported here, so that a service does not load them.
"""
