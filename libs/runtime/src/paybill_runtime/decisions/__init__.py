"""Decisions: event-sourced aggregates, decided in memory and committed in groups.

Guarantees: states, facts (transactional outbox) and required effects are committed together or not at all; a decision
that was made on a state that another transaction changed is made again (optimistic concurrency); one failing decision
does not affect the others of its group; nothing is decided while log and database do not belong together.
"""

from paybill_runtime.decisions.aggregates import AnyStored, Key, StateRow, Stored, generated
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.group_commit import Decide, Decision, GroupCommit
from paybill_runtime.decisions.restore_guard import LogStateMismatchError, RestoreGuard
from paybill_runtime.decisions.store import Store
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork

__all__ = [
    "AnyStored",
    "Decide",
    "Decision",
    "DecisionContext",
    "GroupCommit",
    "Key",
    "LogStateMismatchError",
    "RestoreGuard",
    "ServiceContext",
    "StateRow",
    "Store",
    "Stored",
    "UnitOfWork",
    "generated",
]
