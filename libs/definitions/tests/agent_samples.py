"""A product with all types of columns, its grants, and workflows about it."""

from paybill_contracts.agent_bundles import Bundle
from paybill_contracts.blueprints import Blueprint
from paybill_contracts.kinds import Column, Table
from paybill_definitions.agent_bundle import BundleFileError, read_bundle

TASKS = Table(
    name="tasks",
    columns=(
        Column(name="id", type="text"),
        Column(name="owner", type="text", required=True),
        Column(name="title", type="text"),
        Column(name="points", type="integer", required=True),
        Column(name="cost", type="bigint"),
        Column(name="is_open", type="boolean", required=True),
        Column(name="due", type="date"),
        Column(name="at", type="timestamptz"),
        Column(name="ref", type="uuid"),
        Column(name="price", type="numeric"),
        Column(name="extra", type="jsonb"),
        Column(name="raw", type="bytea"),
        Column(name="secret", type="text"),
    ),
)
NOTES = Table(name="notes", columns=(Column(name="id", type="text"), Column(name="task", type="text", required=True)))
DASHED = Table(name="old-notes", columns=(Column(name="id", type="text"),))
BLUEPRINT = Blueprint(name="work", version=3, regions=(), cells=(), tiers=(), tables=(TASKS, NOTES, DASHED))
RESOURCES = "tasks: {untrusted: [title], hidden: [secret]}\n"
GRANTS = '@id("all") @columns("*") permit(principal in Role::"clerk", action, resource);\n'
LIMITS = "limits: {calls: 5, rows: 50, minutes: 5}\n"
TASK = "task: {read: tasks, where: {id: input.task}, one: true}"


def files(steps: str, *, grants: str = GRANTS, limits: str = LIMITS, resources: str = RESOURCES) -> dict[str, str]:
    """Returns the files of a bundle. steps: lines, the first one in line 7 of w.yaml."""
    indented = "".join(f"  {line}\n" for line in steps.splitlines())
    head = "workflow: w\nrole: clerk\ninput: {task: tasks.id, day: tasks.due}\nonce: [input.task]\n"
    return {"resources.yaml": resources, "grants.cedar": grants, "w.yaml": f"{head}{limits}steps:\n{indented}"}


def bundle(steps: str, **texts: str) -> Bundle:
    """Returns the bundle of these steps."""
    return read_bundle(files(steps, **texts), BLUEPRINT)


def errors(steps: str, **texts: str) -> list[str]:
    """Returns the errors of a bundle; none for a valid one."""
    return errors_of(files(steps, **texts))


def errors_of(texts: dict[str, str]) -> list[str]:
    """Returns the errors of files; none for a valid bundle."""
    try:
        read_bundle(texts, BLUEPRINT)
    except BundleFileError as error:
        return str(error).splitlines()
    return []
