"""Answers to calls in the REST API: the same documents as the tools of the MCP endpoint return."""

from typing import Annotated, Literal

from paybill_contracts.agent_bundles import Scalar
from paybill_contracts.agent_runs import RunId
from pydantic import BaseModel, Field

Plain = dict[str, Scalar | None]
"""Fields of a row, by column."""


class NextStepView(BaseModel):
    """A step that is allowed next."""

    tool: Annotated[str, Field(description="Its tool in the MCP endpoint.")]
    step: str
    slots: Annotated[list[str], Field(description="Values that the caller gives.")]
    choices: Annotated[list[str], Field(description="Options, of which the caller names one as `choice`.")]


class AnswerView(BaseModel):
    """Answer to a call."""

    run: RunId
    seq: Annotated[int, Field(description="Number of the next call.")]
    state: Literal["waiting", "ended"]
    step: Annotated[str | None, Field(description="The next step.")]
    values: Annotated[dict[str, Plain], Field(description="By step: the row that this call read or wrote.")]
    rows: Annotated[dict[str, list[Plain]], Field(description="By step: the rows of a step with several.")]
    next: list[NextStepView]
    ended: Annotated[str | None, Field(description="Reason of the end of the run.")]
