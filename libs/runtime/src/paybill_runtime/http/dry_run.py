"""Responses to dry runs: the facts that a request would record, and the result that it would have."""

import json
from collections.abc import Sequence
from typing import Any, Self

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from paybill_contracts.envelope import Fact
from paybill_contracts.event import encode
from paybill_contracts.sentences import sentence
from pydantic import BaseModel


class PossibleFact(BaseModel):
    """A fact that the request would record. payload: personal data in it is sealed, as in the log."""

    type: str
    version: int
    aggregate: str
    revision: int
    sentence: str
    payload: dict[str, Any]

    @classmethod
    def of(cls, fact: Fact) -> Self:
        """Returns the view of `fact`."""
        event = fact.event
        return cls(
            type=event.TYPE,
            version=event.VERSION,
            aggregate=fact.aggregate,
            revision=fact.revision,
            sentence=sentence(event),
            payload=json.loads(encode(event)),
        )


class DryRunView(BaseModel):
    """Outcome of a dry run.

    result: the response that the request would have; null when it is made later. already_executed: a request with this
    Idempotency-Key was executed before, so that nothing would be recorded and the earlier response returned.
    """

    would_record: list[PossibleFact]
    result: dict[str, Any] | None
    already_executed: bool = False


class DryRunEnded(Exception):  # noqa: N818  # it is an outcome, not an error
    """Ends a request in place of its commit, so that nothing after the decision runs."""

    def __init__(self, facts: Sequence[Fact], outcome: object, *, already_executed: bool = False) -> None:
        super().__init__("a dry run ended before its commit")
        self.view = DryRunView(
            would_record=[PossibleFact.of(fact) for fact in facts],
            result=outcome.model_dump(mode="json") if isinstance(outcome, BaseModel) else None,
            already_executed=already_executed,
        )


def install(app: FastAPI) -> None:
    """Registers the response to dry runs."""

    @app.exception_handler(DryRunEnded)
    async def _ended(_: Request, ended: DryRunEnded) -> JSONResponse:
        return JSONResponse(ended.view.model_dump(mode="json"))
