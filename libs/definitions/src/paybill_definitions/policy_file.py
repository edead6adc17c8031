"""Reads policy.yaml, and reports every error by file, line and reason."""

from typing import Annotated

from paybill_contracts.errors import DomainError
from paybill_contracts.money import MAX_MINOR, Money
from paybill_contracts.policy import AfterFailure, CostLimit, DriftHandling, Handling, Policy
from paybill_contracts.price_book import CurrencyCode
from paybill_contracts.values import Key
from pydantic import Field

from paybill_definitions.definition_file import DefinitionFile, StrictInput
from paybill_definitions.policy_rules import errors
from paybill_definitions.yaml_lines import InvalidDocumentError, read, report


class PolicyFileError(DomainError):
    """The file is no valid policy. The message has one line for each error: `<file>:<line>: <reason>`."""

    code = "invalid_policy"


PolicyFile = DefinitionFile[Policy]


class _CostLimit(StrictInput):
    minor: Annotated[int, Field(ge=0, le=MAX_MINOR, strict=True)]
    currency: CurrencyCode
    handling: Handling


class _File(StrictInput):
    name: Key
    version: Annotated[int, Field(ge=1, le=1_000_000)]
    creates: Handling
    updates: Handling
    clean_up: Handling
    deletes: Handling
    replaces: Handling
    moves_data: Handling
    drift: DriftHandling = DriftHandling.REPORT
    cost_limit: _CostLimit | None = None
    approval_valid_hours: Annotated[int, Field(ge=1, le=2160, strict=True)]
    after_failure: AfterFailure = AfterFailure.KEEP
    change_within_hours: Annotated[int, Field(ge=1, le=2160, strict=True)] = 24


def read_policy(text: str, file: str) -> PolicyFile:
    """Parses a policy in YAML. file: its name in messages. Raises PolicyFileError with all errors."""
    try:
        source, lines = read(_File, text)
    except InvalidDocumentError as error:
        raise PolicyFileError("\n".join(report(file, error.diagnostics))) from None
    limit = source.cost_limit
    content = Policy(
        name=source.name,
        version=source.version,
        creates=source.creates,
        updates=source.updates,
        clean_up=source.clean_up,
        deletes=source.deletes,
        replaces=source.replaces,
        moves_data=source.moves_data,
        cost_limit=None
        if limit is None
        else CostLimit(monthly=Money(minor=limit.minor, currency=limit.currency), handling=limit.handling),
        drift=source.drift,
        approval_valid_s=source.approval_valid_hours * 3600,
        after_failure=source.after_failure,
        change_within_s=source.change_within_hours * 3600,
    )
    read_file = DefinitionFile(content, file, lines)
    if found := read_file.report(errors(content)):
        raise PolicyFileError("\n".join(found))
    return read_file
