"""Shape of a workflow file, before its references and conditions are read."""

from collections.abc import Mapping
from typing import Annotated, Any

from paybill_contracts.agent_bundles import SumName
from paybill_contracts.inputs import PlainText
from paybill_contracts.values import Count, Key
from pydantic import Field, ValidationError

from paybill_definitions.definition_file import StrictInput
from paybill_definitions.yaml_lines import Path

_Minutes = Annotated[int, Field(ge=1, le=10_080, strict=True)]
_Limit = Annotated[int, Field(ge=1, le=1000, strict=True)]
_Amount = Annotated[Count, Field(strict=True)]
_Flag = Annotated[bool, Field(strict=True)]


class AmountsPart(StrictInput):
    calls: _Amount
    rows: _Amount
    sum: dict[SumName, _Amount] = Field(default_factory=dict)


class LimitsPart(AmountsPart):
    minutes: _Minutes
    agent_day: AmountsPart | None = None
    tenant_day: AmountsPart | None = None


class WorkflowFile(StrictInput):
    workflow: Key
    role: Key
    description: PlainText = ""
    input: dict[Key, str] = Field(default_factory=dict)
    once: tuple[str, ...] = ()
    limits: LimitsPart
    steps: Annotated[dict[Key, dict[str, Any]], Field(min_length=1, max_length=50)]


_HEAD: Mapping[str, Any] = {
    "workflow": "unknown",
    "role": "unknown",
    "limits": {"calls": 0, "rows": 0, "minutes": 1},
}
"""Replaces required parts of the head that are wrong, so that the others are checked in the same run."""
_NESTED = ("input", "steps", "limits")
"""Parts of which only the wrong entries are left out."""


def mended(raw: Any) -> tuple[WorkflowFile | None, frozenset[Path]]:
    """Returns the file without its wrong parts, and their paths; None when it has no steps that can be checked."""
    try:
        return WorkflowFile.model_validate(raw), frozenset()
    except ValidationError as error:
        locations = [each["loc"] for each in error.errors()]
    if not isinstance(raw, dict) or {("input",), ("steps",)} & set(locations):
        return None, frozenset()
    wrong: set[Path] = {place[:2] if place[0] in _NESTED else place[:1] for place in locations}
    kept = {name: value for name, value in raw.items() if name in WorkflowFile.model_fields and (name,) not in wrong}
    for part in _NESTED:
        if part in kept:
            kept[part] = {name: value for name, value in kept[part].items() if (part, name) not in wrong}
    if not kept.get("steps"):
        return None, frozenset()
    limits = {**_HEAD["limits"], **kept.get("limits", {})}
    return WorkflowFile.model_validate({**_HEAD, **kept, "limits": limits}), frozenset(wrong)


class StepPart(StrictInput):
    next: Key | None = None
    repeat: Annotated[int, Field(ge=1, le=100, strict=True)] = 1


class ApprovalPart(StrictInput):
    when: str | None = None
    within_minutes: _Minutes


class CompensationPart(StrictInput):
    create: Key | None = None
    update: Key | None = None
    delete: Key | None = None
    where: dict[Key, Any] = Field(default_factory=dict)
    set: dict[Key, Any] = Field(default_factory=dict)


class WritePart(StepPart):
    approval: ApprovalPart | None = None
    irreversible: _Flag = False
    compensation: CompensationPart | None = None


class ReadPart(StepPart):
    read: Key
    where: dict[Key, Any] = Field(default_factory=dict)
    columns: tuple[Key, ...] | None = None
    order: tuple[Annotated[str, Field(pattern=r"^-?[a-z][a-z0-9_-]{0,62}$")], ...] = ()
    limit: _Limit | None = None
    one: _Flag = False


class CreatePart(WritePart):
    create: Key
    set: dict[Key, Any]


class UpdatePart(WritePart):
    update: Key
    where: dict[Key, Any]
    set: dict[Key, Any]
    limit: _Limit | None = None
    one: _Flag = False


class DeletePart(WritePart):
    delete: Key
    where: dict[Key, Any]
    limit: _Limit | None = None
    one: _Flag = False


class ComputePart(StepPart):
    compute: dict[Key, Any]


class OptionPart(StrictInput):
    when: str | None = None
    next: Key


class ChoosePart(StrictInput):
    choose: Annotated[dict[Key, OptionPart], Field(min_length=1)]
    repeat: Annotated[int, Field(ge=1, le=100, strict=True)] = 1


class WhenPart(StrictInput):
    when: str


WRITES = ("create", "update", "delete")
KINDS: Mapping[str, type[StepPart] | type[ChoosePart]] = {
    "read": ReadPart,
    "create": CreatePart,
    "update": UpdatePart,
    "delete": DeletePart,
    "compute": ComputePart,
    "choose": ChoosePart,
}
