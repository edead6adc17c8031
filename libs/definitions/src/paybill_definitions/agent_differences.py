"""Differences between two bundles, for people, in the words of their files. Pure."""

from collections.abc import Iterator, Mapping

from paybill_contracts.agent_bundles import AgentResource, Bundle, Workflow
from pydantic import BaseModel

from paybill_definitions.agent_text import grant_text, step_parts

LABELS = ("hidden", "untrusted", "personal")
WHOLE = ""
"""Path of the text of a whole part, which is compared, and shown when the part is added or removed."""


class BundleDifference(BaseModel):
    """A difference. change: added, removed, changed, or the path of what differs, such as `steps.propose.set.amount`.

    of: the workflow, grant or resource. before, after: text in the words of the file; null for nothing.
    """

    change: str
    of: str
    before: str | None
    after: str | None


def differences(before: Bundle | None, after: Bundle) -> Iterator[BundleDifference]:
    """Yields every difference of `after` from `before`, or from an empty bundle."""
    old, new = _parts(before), _parts(after)
    for of in sorted(old.keys() | new.keys()):
        former, latter = old.get(of, {}), new.get(of, {})
        if of not in old or of not in new:
            change = "added" if of in new else "removed"
            yield BundleDifference(change=change, of=of, before=former.get(WHOLE), after=latter.get(WHOLE))
        if of not in new:
            continue
        for path in [*former, *(each for each in latter if each not in former)]:
            if former.get(path) != latter.get(path) and (path != WHOLE or of in old):
                yield BundleDifference(change=path or "changed", of=of, before=former.get(path), after=latter.get(path))


def _parts(bundle: Bundle | None) -> dict[str, Mapping[str, str]]:
    """Returns the texts of each part of a bundle, by its kind and name, by their paths."""
    if bundle is None:
        return {}
    blueprint = f"{bundle.blueprint.name}@{bundle.blueprint.version} ({bundle.blueprint.content_hash})"
    return {
        "blueprint": {WHOLE: blueprint},
        **{f"resource {each.name}": {WHOLE: _resource(each)} for each in bundle.resources},
        **{f"grant {each.id}": {WHOLE: grant_text(each)} for each in bundle.grants},
        **{f"workflow {each.name}": _workflow(each) for each in bundle.workflows},
    }


def _resource(resource: AgentResource) -> str:
    columns = []
    for column in resource.columns:
        labels = [label for label in LABELS if getattr(column, label)]
        words = [column.name, column.type, *([] if column.nullable else ["required"]), *labels]
        columns.append(" ".join(words))
    changes = f"; also_changes: {', '.join(resource.also_changes)}" if resource.also_changes else ""
    return f"{', '.join(columns)}{changes}"


def _workflow(workflow: Workflow) -> dict[str, str]:
    names = ", ".join(step.name for step in workflow.steps)
    parts = {WHOLE: f"role {workflow.role}, steps {names}"}
    parts |= {"description": workflow.description} if workflow.description else {}
    parts |= {f"input.{each.name}": f"{each.resource}.{each.column}" for each in workflow.inputs}
    parts |= {"once": ", ".join(f"input.{each.name}" for each in workflow.once)} if workflow.once else {}
    limits = workflow.limits
    parts["limits.minutes"] = str(limits.minutes)
    days = {"limits.agent_day": limits.agent_day, "limits.tenant_day": limits.tenant_day}
    for place, amounts in {"limits": limits.run, **days}.items():
        if amounts is not None:
            parts |= {f"{place}.calls": str(amounts.calls), f"{place}.rows": str(amounts.rows)}
            parts |= {f"{place}.sum.{name}": str(limit) for name, limit in amounts.sums.items()}
    for step in workflow.steps:
        parts |= {f"steps.{step.name}.{path}": text for path, text in step_parts(step).items()}
    return parts
