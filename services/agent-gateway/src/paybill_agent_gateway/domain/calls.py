"""Calls of agents, people and programs: the start of a run, and a step of one."""

from collections.abc import Mapping
from dataclasses import dataclass

from paybill_contracts.envelope import Origin
from paybill_contracts.event import digest

MAX_NAME = 128
"""Longest name of a workflow and a step, `workflow.step`."""
MAX_TARGET = 200


@dataclass(frozen=True, slots=True)
class CallCaller:
    """The caller of an action, for one tenant.

    subject: `user:…`, `service:…` or `agent:…`. agent_id: None for a person or a program. role: of an agent; a person
    or a program may use the workflows of every role.
    """

    tenant_id: str
    subject: str
    agent_id: str | None = None
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Starts a workflow. request_id: of the request; repeated requests with one id are one run."""

    workflow: str
    inputs: Mapping[str, object]
    request_id: str


@dataclass(frozen=True, slots=True)
class Take:
    """Takes the step `step` of a run. seq: as the last answer named it; values: slots, or `choice`.

    workflow: that the caller names, as the name of a tool does; None when it names the run alone.
    """

    run: str
    seq: int
    step: str
    values: Mapping[str, object]
    workflow: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A call. origin: of its facts, with the caller's trace."""

    caller: CallCaller
    request: Start | Take
    origin: Origin

    @property
    def target(self) -> str:
        """The workflow that the call starts, or the step and its run, in ASCII: the caller has given the text."""
        request = self.request
        if isinstance(request, Start):
            text = request.workflow
        else:
            step = request.step if request.workflow is None else f"{request.workflow}.{request.step}"
            text = f"{step[:MAX_NAME]} of {request.run}"
        return target_of(text)


def target_of(text: str) -> str:
    """Returns a text of the caller as the target of a fact: in ASCII, and not long."""
    return text[:MAX_TARGET].encode("ascii", "replace").decode()


def digest_of(run: str, request: Start | Take) -> str:
    """Returns the digest of a call and all of its arguments."""
    if isinstance(request, Start):
        return digest([run, 0, request.workflow, dict(request.inputs)])
    return digest([run, request.seq, request.step, dict(request.values)])


def digest_if_canonical(run: str, request: Start | Take) -> str | None:
    """Returns the digest of a call that was not checked; None when its arguments have no canonical form."""
    try:
        return digest_of(run, request)
    except TypeError:  # a number of more than 64 bits, half a surrogate pair, or 255 levels
        return None
