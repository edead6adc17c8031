"""Reads resources.yaml of a bundle: labels of people on the tables of a blueprint."""

from collections.abc import Iterator
from contextlib import suppress

from paybill_contracts.agent_bundles import AgentResource, ResourceColumn
from paybill_contracts.blueprints import Blueprint
from paybill_contracts.kinds import Table
from paybill_contracts.values import Key
from pydantic import RootModel, ValidationError

from paybill_definitions.agent_cedar import RESERVED
from paybill_definitions.definition_file import StrictInput
from paybill_definitions.yaml_lines import Diagnostic, InvalidDocumentError, Lines, parsed, validated

COLUMN_LABELS = ("hidden", "untrusted", "personal")


class _Labels(StrictInput):
    hidden: tuple[Key, ...] = ()
    untrusted: tuple[Key, ...] = ()
    personal: tuple[Key, ...] = ()
    also_changes: tuple[Key, ...] = ()


class _File(RootModel[dict[Key, _Labels]]):
    """Labels by table."""


def read_resources(text: str, blueprint: Blueprint) -> tuple[tuple[AgentResource, ...], Lines]:
    """Returns every table of the blueprint that Cedar can name, with its labels. Raises InvalidDocumentError."""
    raw, lines, repeated = parsed(text, refuses_aliases=True)
    labels, faults = _labels(raw, lines)
    if found := [*repeated, *faults, *_errors(labels, blueprint, lines)]:
        raise InvalidDocumentError(*found)
    tables = sorted((each for each in blueprint.tables if _is_nameable(each.name)), key=lambda table: table.name)
    return tuple(_resource(table, labels.get(table.name, _Labels())) for table in tables), lines


def _labels(raw: object, lines: Lines) -> tuple[dict[str, _Labels], tuple[Diagnostic, ...]]:
    """Returns the labels by table, and the errors of those that are left out: an unknown label hides no other."""
    try:
        return validated(_File, raw, lines).root, ()
    except InvalidDocumentError as error:
        faults = error.diagnostics
    found: dict[str, _Labels] = {}
    for name, of in raw.items() if isinstance(raw, dict) else ():
        for part in ({}, *({label: columns} for label, columns in of.items())) if isinstance(of, dict) else ():
            known = found.get(name, _Labels()).model_dump()
            with suppress(ValidationError):  # it is one of the faults
                found |= _File.model_validate({name: known | part}).root
    return found, faults


def _is_nameable(table: str) -> bool:
    """Returns whether Cedar can name the table; agents have no access to others."""
    return "-" not in table and table not in RESERVED


def _errors(labels: dict[str, _Labels], blueprint: Blueprint, lines: Lines) -> Iterator[Diagnostic]:
    tables = {table.name: table for table in blueprint.tables}
    for name, of in labels.items():
        if name not in tables:
            known = ", ".join(sorted(tables))
            yield Diagnostic(lines[name,], f"the blueprint {blueprint.name} has no table {name}, only {known}")
            continue
        if not _is_nameable(name) and of != _Labels():
            yield Diagnostic(
                lines[name,], f"Cedar cannot name the table {name}; agents have no access to it, so remove its labels"
            )
        columns = [column.name for column in tables[name].columns]
        for label in COLUMN_LABELS:
            for index, column in enumerate(getattr(of, label)):
                if column not in columns:
                    reason = f"{name} has no column {column}, only {', '.join(columns)}"
                    yield Diagnostic(lines[name, label, index], reason)
        if columns[0] in of.hidden:
            yield Diagnostic(lines[name, "hidden"], f"{columns[0]} is the key of {name} and cannot be hidden")
        for index, table in enumerate(of.also_changes):
            if table not in tables:
                yield Diagnostic(lines[name, "also_changes", index], f"the blueprint has no table {table}")


def _resource(table: Table, labels: _Labels) -> AgentResource:
    return AgentResource(
        name=table.name,
        columns=tuple(
            ResourceColumn(
                name=column.name,
                type=column.type,
                nullable=position > 0 and not column.required,
                hidden=column.name in labels.hidden,
                untrusted=column.name in labels.untrusted,
                personal=column.name in labels.personal,
            )
            for position, column in enumerate(table.columns)
        ),
        also_changes=tuple(sorted(set(labels.also_changes))),
    )
