"""Messaging on NATS JetStream.

Guarantees: every committed fact is published at least once, under its own id and in order for each tenant; a service
handles every message exactly once (inbox and positions are committed with the decisions); a failing message blocks only
its tenant's queue; malformed messages never stop a consumer.

Public modules: `subscriptions` (a service's consumer.py), `publisher` (other systems), `streams`, `ordered_consumer`.
Nothing is imported here, so that the CLI and publishers load only what they use.
"""
