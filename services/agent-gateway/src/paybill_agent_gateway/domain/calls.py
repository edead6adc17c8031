"""Calls of agents, people and programs: the start of a run, and a step of one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from paybill_contracts.envelope import Origin
from paybill_contracts.event import digest

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_RUN = re.compile(r"run_[0-9a-f]{32}")


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
        """The workflow that the call starts, or the step and its run."""
        request = self.request
        if isinstance(request, Start):
            return target_of(request.workflow)
        names = (request.step,) if request.workflow is None else (request.workflow, request.step)
        return f"{target_of(*names)} of {request.run if _RUN.fullmatch(request.run) else _digest(request.run)}"


def target_of(*names: str) -> str:
    """Returns names that the caller has given as the target of a fact; a text that is no name by its digest alone."""
    return ".".join(each if _NAME.fullmatch(each) else _digest(each) for each in names)


def _digest(text: str) -> str:
    return f"sha256:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


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
