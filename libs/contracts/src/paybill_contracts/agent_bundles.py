"""Bundles of the agent gateway: resources, grants and workflows, published whole and named by one hash."""

from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from paybill_contracts.agent_expressions import Condition
from paybill_contracts.api_keys import Subject
from paybill_contracts.blueprints import Blueprint
from paybill_contracts.environment_plans import BlueprintRef
from paybill_contracts.event import Event, Value
from paybill_contracts.values import Count, Digest, Key, Text, Timestamp

MAX_BUNDLE_BYTES = 480 * 1024
"""Maximum of the canonical form of a bundle: with its envelope, the fact has at most 512 KiB."""

SumName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}\.[a-z][a-z0-9_-]{0,62}$"),
    Field(examples=["refunds.amount"]),
]
"""`<table>.<column>` of an integer column whose written values are added up."""

Scalar: TypeAlias = bool | Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | Annotated[str, Field(max_length=100_000)]
"""A value of a column in facts and answers: dates, times, uuids, numerics and JSON are texts in canonical form."""

LineOfText = Annotated[
    str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$"), Field(examples=["Refunds an order."])
]


class Verb(StrEnum):
    """Actions on rows."""

    READ = "read"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class ResourceColumn(Value):
    """A column of the blueprint with the labels of a person.

    hidden: it never leaves PostgreSQL. untrusted: other people write it. personal: it is sealed in facts.
    """

    name: Key
    type: Key
    nullable: bool
    hidden: bool = False
    untrusted: bool = False
    personal: bool = False


class AgentResource(Value):
    """A table of the blueprint; its first column is the key.

    also_changes: other tables whose rows a write to this one changes by triggers or referential actions.
    """

    name: Key
    columns: tuple[ResourceColumn, ...]
    also_changes: tuple[Key, ...] = ()


class Effect(StrEnum):
    """Effect of a grant that applies. A forbid has priority over every permit."""

    PERMIT = "permit"
    FORBID = "forbid"


class Grant(Value):
    """A Cedar policy in canonical form.

    id: of its annotation. role: None for every role. resources: never empty. columns: those that a step may name under
    this permit, by resource; empty for a forbid, which is about whole rows. condition: None when it always applies.
    """

    id: Text
    effect: Effect
    role: Key | None
    verbs: tuple[Verb, ...]
    resources: tuple[Key, ...]
    columns: dict[Key, tuple[Key, ...]]
    condition: Condition | None = None


class FixedValue(Value):
    """A constant of the author; None is NULL."""

    kind: Literal["fixed"] = "fixed"
    value: Scalar | None


class InputValue(Value):
    """An input of the run."""

    kind: Literal["input"] = "input"
    name: Key


class FieldValue(Value):
    """A field of the row of an earlier step that reads one row or computes."""

    kind: Literal["field"] = "field"
    step: Key
    field: Key


class RunValue(Value):
    """The id of the run."""

    kind: Literal["run_id"] = "run_id"


class TemplateValue(Value):
    """A text made of constants and references, in order."""

    kind: Literal["template"] = "template"
    parts: tuple[Annotated[FixedValue | InputValue | FieldValue | RunValue, Field(discriminator="kind")], ...]


class SlotType(StrEnum):
    """Types of the values that a model may give."""

    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    DATE = "date"
    TIME = "time"


Bound: TypeAlias = Annotated[FixedValue | FieldValue, Field(discriminator="kind")]


class Slot(Value):
    """A value from the model: the only untrusted argument that the author does not bind.

    minimum, maximum: of an integer, date or time; a fixed value or a field of the run. choices: of a choice.
    max_length: characters of a text.
    """

    kind: Literal["slot"] = "slot"
    type: SlotType
    minimum: Bound | None = None
    maximum: Bound | None = None
    choices: tuple[LineOfText, ...] = ()
    max_length: Count | None = None


Argument: TypeAlias = Annotated[
    FixedValue | InputValue | FieldValue | RunValue | TemplateValue | Slot, Field(discriminator="kind")
]


class ApprovalRule(Value):
    """A write that a person has to approve. when: on the row as it will be; None for always."""

    when: Condition | None = None
    within_minutes: Annotated[int, Field(ge=1, le=10_080)]


class WorkflowStep(Value):
    """Common part of steps. next: the step that follows; "end" ends the run; repeat: how often it may be executed."""

    name: Key
    next: Key
    repeat: Annotated[int, Field(ge=1, le=100)] = 1


class SortOrder(Value):
    """One column of an order."""

    column: Key
    descending: bool = False


class ReadStep(WorkflowStep):
    """Reads rows whose columns equal the arguments. one: exactly one row; limit: of rows."""

    kind: Literal["read"] = "read"
    resource: Key
    where: dict[Key, Argument]
    columns: tuple[Key, ...]
    one: bool
    order: tuple[SortOrder, ...] = ()
    limit: Annotated[int, Field(ge=1, le=1000)]


class WriteStep(WorkflowStep):
    """Common part of steps that change rows. irreversible: there is no compensation."""

    resource: Key
    approval: ApprovalRule | None = None
    irreversible: bool = False
    compensation: "Compensation | None" = None


class CreateStep(WriteStep):
    """Creates one row."""

    kind: Literal["create"] = "create"
    set: dict[Key, Argument]


class UpdateStep(WriteStep):
    """Changes the rows whose columns equal the arguments; at most `limit`, else nothing."""

    kind: Literal["update"] = "update"
    where: dict[Key, Argument]
    set: dict[Key, Argument]
    limit: Annotated[int, Field(ge=1, le=1000)]


class DeleteStep(WriteStep):
    """Deletes the rows whose columns equal the arguments; at most `limit`, else nothing."""

    kind: Literal["delete"] = "delete"
    where: dict[Key, Argument]
    limit: Annotated[int, Field(ge=1, le=1000)]


class Compensation(Value):
    """The write that undoes a step. It is published and checked, and executed by nobody yet."""

    verb: Verb
    resource: Key
    where: dict[Key, Argument] = Field(default_factory=dict)
    set: dict[Key, Argument] = Field(default_factory=dict)


class ComputeStep(WorkflowStep):
    """Names values: arguments, and conditions as booleans."""

    kind: Literal["compute"] = "compute"
    values: dict[Key, Argument] = Field(default_factory=dict)
    conditions: dict[Key, Condition] = Field(default_factory=dict)


class Option(Value):
    """A continuation of a choice. when: None for always."""

    name: Key
    when: Condition | None = None
    next: Key


class ChooseStep(WorkflowStep):
    """Continues with one of the options that apply. The model is asked when more than one applies."""

    kind: Literal["choose"] = "choose"
    options: tuple[Option, ...]


Step: TypeAlias = Annotated[
    ReadStep | CreateStep | UpdateStep | DeleteStep | ComputeStep | ChooseStep, Field(discriminator="kind")
]
Write: TypeAlias = CreateStep | UpdateStep | DeleteStep


class WorkflowInput(Value):
    """An input with the type of a column."""

    name: Key
    resource: Key
    column: Key


class Amounts(Value):
    """Numbers of calls, of rows, and sums of written integers."""

    calls: Count = 0
    rows: Count = 0
    sums: dict[SumName, Count] = Field(default_factory=dict)


class WorkflowLimits(Value):
    """Budgets of a workflow.

    run: of one run. agent_day, tenant_day: of all its runs by one agent, or of one tenant, in a day (UTC).
    """

    run: Amounts
    minutes: Annotated[int, Field(ge=1, le=10_080)]
    agent_day: Amounts | None = None
    tenant_day: Amounts | None = None


class Workflow(Value):
    """A procedure of a role, as data. The first step is the beginning.

    once: arguments of the business key; requests with the same one are one run. Not empty when it writes.
    """

    name: Key
    role: Key
    description: LineOfText
    inputs: tuple[WorkflowInput, ...]
    once: tuple[InputValue, ...]
    limits: WorkflowLimits
    steps: tuple[Step, ...]


class Bundle(Value):
    """Resources, grants and workflows of a product, sorted by name, checked against one version of its blueprint."""

    blueprint: BlueprintRef
    resources: tuple[AgentResource, ...]
    grants: tuple[Grant, ...]
    workflows: tuple[Workflow, ...]


class TableRights(Value):
    """Columns that agents read, insert and update in a table, and whether they delete rows: exactly those in use."""

    table: Key
    select: tuple[Key, ...] = ()
    insert: tuple[Key, ...] = ()
    update: tuple[Key, ...] = ()
    delete: bool = False


class BlueprintNoted(
    Event, type="agent-gateway.blueprint_noted", version=1, aggregate="agent-blueprint", key="blueprint"
):
    """The gateway's copy of a blueprint in force, which the resources of bundles come from. blueprint: its name."""

    blueprint: Key
    content: Blueprint
    content_hash: Digest


class BundlePublished(Event, type="agent-gateway.bundle_published", version=1, aggregate="bundle", key="content_hash"):
    """A bundle exists from now on, with its whole content. content_hash: of its canonical form."""

    content_hash: Digest
    content: Bundle
    published_by: Subject
    published_at: Timestamp


class BundleActivated(
    Event, type="agent-gateway.bundle_activated", version=1, aggregate="bundle-in-force", key="blueprint"
):
    """This bundle is in force for the blueprint: a new one, or an older one again. rights: of agents' logins."""

    blueprint: Key
    bundle_hash: Digest
    rights: tuple[TableRights, ...]
    activated_by: Subject
    activated_at: Timestamp
