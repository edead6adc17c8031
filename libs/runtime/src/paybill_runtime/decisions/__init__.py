"""Decisions: event-sourced aggregates, decided in memory and committed in groups.

Guarantees: states, facts (transactional outbox) and required effects are committed together or not at all; a decision
that was made on a state that another transaction changed is made again (optimistic concurrency); one failing decision
does not affect the others of its group; nothing is decided while log and database do not belong together.

Public modules: `aggregates`, `context`, `group_commit`, `unit_of_work`. Nothing is imported here: a replay loads only
`aggregates`, and `context` loads the HTTP framework.
"""
