"""A bundle for tests of tools: the refund of the example, and a workflow with every kind of step and slot."""

from paybill_contracts.agent_bundles import (
    AgentResource,
    Amounts,
    ApprovalRule,
    Bundle,
    ChooseStep,
    ComputeStep,
    CreateStep,
    DeleteStep,
    FieldValue,
    FixedValue,
    InputValue,
    Option,
    ReadStep,
    ResourceColumn,
    RunValue,
    Slot,
    SlotType,
    TemplateValue,
    UpdateStep,
    Workflow,
    WorkflowInput,
    WorkflowLimits,
)
from paybill_contracts.environment_plans import BlueprintRef

LIMITS = WorkflowLimits(run=Amounts(calls=12, rows=20), minutes=15)


def column(name: str, type_: str = "text", **labels: bool) -> ResourceColumn:
    return ResourceColumn(name=name, type=type_, nullable=labels.pop("nullable", False), **labels)


RESOURCES = (
    AgentResource(
        name="orders",
        columns=(
            column("id"),
            column("customer_id", nullable=True),
            column("total", "bigint"),
            column("secret", hidden=True),
        ),
    ),
    AgentResource(
        name="refunds",
        columns=(
            column("id"),
            column("order_id"),
            column("amount", "bigint"),
            column("reason", nullable=True, untrusted=True),
        ),
    ),
    AgentResource(
        name="tickets", columns=(column("id"), column("order_id", nullable=True), column("body", untrusted=True))
    ),
)

REFUND = Workflow(
    name="refund",
    role="support",
    description="Refunds the order of a ticket.",
    inputs=(WorkflowInput(name="ticket", resource="tickets", column="id"),),
    once=(InputValue(name="ticket"),),
    limits=LIMITS,
    steps=(
        ReadStep(
            name="ticket",
            next="order",
            resource="tickets",
            where={"id": InputValue(name="ticket")},
            columns=("id", "order_id", "body"),
            one=True,
            limit=1,
        ),
        ReadStep(
            name="order",
            next="propose",
            resource="orders",
            where={"id": FieldValue(step="ticket", field="order_id")},
            columns=("id", "total"),
            one=True,
            limit=1,
        ),
        CreateStep(
            name="propose",
            next="end",
            resource="refunds",
            set={
                "id": RunValue(),
                "order_id": FieldValue(step="order", field="id"),
                "amount": Slot(
                    type=SlotType.INTEGER,
                    minimum=FixedValue(value=1),
                    maximum=FieldValue(step="order", field="total"),
                ),
                "reason": Slot(type=SlotType.TEXT, max_length=200),
            },
            approval=ApprovalRule(within_minutes=60),
            irreversible=True,
        ),
    ),
)

TIDY = Workflow(
    name="tidy",
    role="support",
    description="Tidies the refunds of an order.",
    inputs=(WorkflowInput(name="order", resource="orders", column="id"),),
    once=(InputValue(name="order"),),
    limits=LIMITS,
    steps=(
        ReadStep(
            name="all",
            next="kind",
            resource="refunds",
            where={"order_id": InputValue(name="order")},
            columns=("id", "amount"),
            one=False,
            limit=10,
        ),
        ChooseStep(
            name="kind",
            next="end",
            options=(
                Option(name="correct", next="correct"),
                Option(name="remove", next="remove"),
                Option(name="none", next="end"),
            ),
        ),
        UpdateStep(
            name="correct",
            next="note",
            resource="refunds",
            where={"order_id": InputValue(name="order")},
            set={"reason": Slot(type=SlotType.CHOICE, choices=("late", "broken"))},
            limit=5,
        ),
        DeleteStep(
            name="remove",
            next="note",
            resource="refunds",
            where={"order_id": InputValue(name="order")},
            limit=5,
            approval=ApprovalRule(within_minutes=5),
        ),
        ComputeStep(
            name="note",
            next="end",
            values={
                "day": Slot(
                    type=SlotType.DATE, minimum=FixedValue(value="2026-01-01"), maximum=FixedValue(value="2026-12-31")
                ),
                "title": TemplateValue(parts=(FixedValue(value="order "), InputValue(name="order"))),
            },
        ),
    ),
)

COUNT = Workflow(
    name="count",
    role="auditor",
    description="Reads refunds.",
    inputs=(),
    once=(),
    limits=LIMITS,
    steps=(
        ReadStep(name="all", next="end", resource="refunds", where={}, columns=("id", "amount"), one=False, limit=1000),
    ),
)

BUNDLE = Bundle(
    blueprint=BlueprintRef(name="standard", version=1, content_hash="0" * 64),
    resources=RESOURCES,
    grants=(),
    workflows=(COUNT, REFUND, TIDY),
)
