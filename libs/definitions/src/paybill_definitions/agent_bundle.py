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
from paybill_definitions.agent_rules import errors
from paybill_definitions.agent_workflows import read_workflow
from paybill_definitions.diagnostics import PartDiagnostic
from paybill_definitions.yaml_lines import Diagnostic, InvalidDocumentError, Lines, line_of, report

RESOURCES = "resources.yaml"
GRANTS = "grants.cedar"
MAX_FILES = 102
"""Resources, grants and 100 workflows."""
_MAX_BYTES = 1024 * 1024


class BundleFileError(DomainError):
    """The folder is no valid bundle. The message has one line for each error: `<file>:<line>: <reason>`."""

    code = "invalid_bundle"


@dataclass(frozen=True, slots=True)
class _Place:
    """File of a part of the bundle, and the lines in it."""

    file: str
    lines: Lines


def read_bundle(files: Mapping[str, str], blueprint: Blueprint) -> Bundle:
    """Returns the bundle in canonical form. files: texts by name. Raises BundleFileError with all errors."""
    _check_names(files)
    found: dict[str, list[Diagnostic]] = {}
    resources, resource_lines = _resources(files, blueprint, found)
    grants, grant_lines = _grants(files, resources, found) if not found else ((), {})
    workflows: dict[str, Workflow] = {}
    sources = {"resources": _Place(RESOURCES, resource_lines), "grants": _Place(GRANTS, grant_lines)}
    for name in sorted(set(files) - {RESOURCES, GRANTS}) if not found else ():
        try:
            workflow, lines = read_workflow(files[name], resources, grants)
        except InvalidDocumentError as error:
            found[name] = list(error.diagnostics)
            continue
        if workflow.name in workflows:
            other = sources[workflow.name].file
            found[name] = [Diagnostic(lines["workflow",], f"{other} has a workflow {workflow.name}, too; rename one")]
        workflows[workflow.name] = workflow
        sources[workflow.name] = _Place(name, lines)
    _refuse(found)
    bundle = Bundle(
        blueprint=BlueprintRef(name=blueprint.name, version=blueprint.version, content_hash=digest(blueprint)),
        resources=resources,
        grants=grants,
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
        return sources[str(rest[0])], tuple(rest[1:])
    return sources.get(str(part), sources["resources"]), tuple(rest)


def _check_names(files: Mapping[str, str]) -> None:
    wrong = [
        f"{name}:1: a bundle has {RESOURCES}, {GRANTS} and workflows named *.yaml; remove this file"
        for name in sorted(files)
        if name != GRANTS and not (name.endswith(".yaml") and "/" not in name)
    ]
    wrong += [f"{name}:1: the file is missing" for name in (RESOURCES, GRANTS) if name not in files]
    if len(files) > MAX_FILES:
        wrong.append(f"{RESOURCES}:1: a bundle has {MAX_FILES - 2} workflows at most; make two of it")
    if sum(len(text) for text in files.values()) > _MAX_BYTES:
        wrong.append(f"{RESOURCES}:1: the files have more than {_MAX_BYTES} characters together")
    if wrong:
        raise BundleFileError("\n".join(wrong))


def _resources(
    files: Mapping[str, str], blueprint: Blueprint, found: dict[str, list[Diagnostic]]
) -> tuple[tuple[AgentResource, ...], Lines]:
    try:
        return read_resources(files[RESOURCES], blueprint)
    except InvalidDocumentError as error:
        found[RESOURCES] = list(error.diagnostics)
        return (), {}


def _grants(
    files: Mapping[str, str], resources: Iterable[AgentResource], found: dict[str, list[Diagnostic]]
) -> tuple[tuple[Grant, ...], Lines]:
    try:
        return read_grants(files[GRANTS], tuple(resources))
    except InvalidDocumentError as error:
        found[GRANTS] = list(error.diagnostics)
        return (), {}


def _refuse(found: Mapping[str, list[Diagnostic]]) -> None:
    if found:
        raise BundleFileError("\n".join(line for name in sorted(found) for line in report(name, found[name])))
