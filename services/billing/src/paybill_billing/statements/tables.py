"""Rows of statements, and the request of a check."""

from datetime import datetime

from paybill_runtime.database.statement import Statement
from paybill_runtime.decisions.aggregates import Stored
from paybill_runtime.decisions.job_rows import JobRequest, Priority, request_job

from paybill_billing.database import Base
from paybill_billing.providers.sync_queue import LEASE
from paybill_billing.statements import domain

CHECK = "check_statement"
"""Kind of the jobs. The key is `<provider>/<customer>`."""


class StatementRow(Base, table=True):
    """The statement of a tenant."""

    __tablename__ = "statements"


STATEMENTS = Stored("statement", StatementRow, domain.Statement, domain.evolve)
STATES = (STATEMENTS,)


def request_check(provider: str, customer: str, due: datetime, statement: Statement) -> None:
    """Requests a check of the statement of a customer; one that is requested already keeps its time."""
    request = JobRequest(CHECK, f"{provider}/{customer}", LEASE, due, f"{CHECK}/{customer}", Priority.BULK)
    request_job(statement, request, "due = least(j.due, excluded.due)")
