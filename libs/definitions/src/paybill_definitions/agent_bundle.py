"""Reads the folder of a bundle: resources.yaml, grants.cedar, and one YAML file for each workflow.

Every error is reported by file, line and reason, before anything is published.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from paybill_contracts.agent_bundles import AgentResource, Bundle, Grant, Workflow
from paybill_contracts.blueprints import Blueprint
from paybill_contracts.environment_plans import BlueprintRef
from paybill_contracts.errors import DomainError
from paybill_contracts.event import digest

from paybill_definitions.agent_grants import read_grants
from paybill_definitions.agent_resources import read_resources
from paybill_definitions.agent_rules import errors, workflow_errors
from paybill_definitions.agent_workflows import read_workflow
from paybill_definitions.diagnostics import PartDiagnostic
from paybill_definitions.yaml_lines import Diagnostic, InvalidDocumentError, Lines, line_of, report

RESOURCES = "resources.yaml"
GRANTS = "grants.cedar"
MAX_FILES = 102
"""Resources, grants and 100 workflows."""
_MAX_BYTES = 1024 * 1024
_MISSING = Diagnostic(1, "the file is missing")


class BundleFileError(DomainError):
    """The folder is no valid bundle. The message has one line for each error: `<file>:<line>: <reason>`."""

    code = "invalid_bundle"


@dataclass(frozen=True, slots=True)
class _Place:
    """File of a part of the bundle, and the lines in it."""

    file: str
    lines: Lines


def read_bundle(files: Mapping[str, str], blueprint: Blueprint) -> Bundle:
    """Returns the bundle in canonical form. files: texts by name; hidden ones are ignored.

    Raises BundleFileError with all errors. What follows from an error of another file alone is left out.
    """
    files = {name: text for name, text in files.items() if not name.startswith(".") or "/" in name}
    _check_size(files)
    found: dict[str, list[Diagnostic]] = {name: [_misnamed(name)] for name in files if not _is_named(name)}
    resources, resource_lines = _resources(files.get(RESOURCES), blueprint, found)
    has_labels = RESOURCES not in found
    grants, grant_lines = _grants(files.get(GRANTS), resources, found)
    names = [name for name in sorted(files) if _is_named(name) and name not in {RESOURCES, GRANTS}]
    if not names:
        reason = "a bundle has at least one workflow: add a file such as refund.yaml"
        found.setdefault(RESOURCES, []).append(Diagnostic(1, reason))
    workflows: dict[str, Workflow] = {}
    named: dict[str, str] = {}
    sources = {"resources": _Place(RESOURCES, resource_lines), "grants": _Place(GRANTS, grant_lines)}
    for name in names:
        read = read_workflow(files[name], resources, grants)
        if read.faults:
            found[name] = list(read.faults)
        if read.workflow is None:
            continue
        own = read.workflow.name
        if ("workflow",) not in read.unread and named.setdefault(own, name) != name:
            reason = f"{named[own]} has a workflow {own}, too; rename one"
            found.setdefault(name, []).append(Diagnostic(read.lines["workflow",], reason))
        is_complete = has_labels and not read.faults
        for each in workflow_errors(read.workflow, resources, grants, is_complete=is_complete, unread=read.unread):
            line = line_of(read.lines, each.path[2:])
            found.setdefault(name, []).append(Diagnostic(line, each.reason))
        if not read.faults:
            workflows[own] = read.workflow
            sources[f"workflow {own}"] = _Place(name, read.lines)
    if found or grants is None:
        _refuse(found)
    bundle = Bundle(
        blueprint=BlueprintRef(name=blueprint.name, version=blueprint.version, content_hash=digest(blueprint)),
        resources=resources,
        grants=grants or (),
        workflows=tuple(workflows[name] for name in sorted(workflows)),
    )
    for each in errors(bundle):
        place, path = _located(each, sources)
        found.setdefault(place.file, []).append(Diagnostic(line_of(place.lines, path), each.reason))
    _refuse(found)
    return bundle


def _located(error: PartDiagnostic, sources: Mapping[str, _Place]) -> tuple[_Place, tuple[int | str, ...]]:
    part, *rest = error.path or ("resources",)
    if part == "workflows" and rest:
        return sources[f"workflow {rest[0]}"], tuple(rest[1:])
    return sources.get(str(part), sources["resources"]), tuple(rest)


def _is_named(name: str) -> bool:
    return name == GRANTS or (name.endswith(".yaml") and "/" not in name)


def _misnamed(name: str) -> Diagnostic:
    if name.endswith(".yml") and "/" not in name:
        return Diagnostic(1, f"the suffix is .yaml; rename it to {name.removesuffix('.yml')}.yaml")
    return Diagnostic(1, f"a bundle has {RESOURCES}, {GRANTS} and workflows named *.yaml; remove this file")


def _check_size(files: Mapping[str, str]) -> None:
    wrong = []
    if len(files) > MAX_FILES:
        wrong.append(f"{RESOURCES}:1: a bundle has {MAX_FILES - 2} workflows at most; make two of it")
    if sum(len(text) for text in files.values()) > _MAX_BYTES:
        wrong.append(f"{RESOURCES}:1: the files have more than {_MAX_BYTES} characters together")
    if wrong:
        raise BundleFileError("\n".join(wrong))


def _resources(
    text: str | None, blueprint: Blueprint, found: dict[str, list[Diagnostic]]
) -> tuple[tuple[AgentResource, ...], Lines]:
    """Returns the resources; those of the blueprint without labels when the file has errors."""
    try:
        if text is not None:
            return read_resources(text, blueprint)
        found[RESOURCES] = [_MISSING]
    except InvalidDocumentError as error:
        found[RESOURCES] = list(error.diagnostics)
    return read_resources("{}", blueprint)[0], {}


def _grants(
    text: str | None, resources: Iterable[AgentResource], found: dict[str, list[Diagnostic]]
) -> tuple[tuple[Grant, ...] | None, Lines]:
    """Returns the grants; None when the file has errors."""
    try:
        if text is not None:
            return read_grants(text, tuple(resources))
        found[GRANTS] = [_MISSING]
    except InvalidDocumentError as error:
        found[GRANTS] = list(error.diagnostics)
    return None, {}


def _refuse(found: Mapping[str, list[Diagnostic]]) -> None:
    if found:
        raise BundleFileError("\n".join(line for name in sorted(found) for line in report(name, found[name])))
