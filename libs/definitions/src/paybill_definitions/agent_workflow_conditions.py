"""Reads the conditions of a workflow, and checks them against the fields of its steps."""

from collections.abc import Collection, Sequence

from paybill_contracts.agent_bundles import AgentResource
from paybill_contracts.agent_expressions import Condition

from paybill_definitions.agent_cedar import expression, step_schema, validate
from paybill_definitions.agent_conditions import errors as condition_errors
from paybill_definitions.agent_conditions import names as condition_names
from paybill_definitions.agent_fields import Fields
from paybill_definitions.cedar_text import CedarError
from paybill_definitions.yaml_lines import Diagnostic, InvalidDocumentError, Lines, Path, line_of


class Conditions:
    """Reads conditions over the fields of a workflow and, in a write, over the columns of its row."""

    def __init__(self, fields: Fields, steps: Sequence[str], lines: Lines, broken: Collection[str]) -> None:
        """broken: steps with errors; a condition that uses one cannot be checked."""
        self._fields = {step: found for step in steps if (found := fields.fields(step))}
        self._lines = lines
        self._broken = frozenset(broken)

    def of(self, text: str | None, resource: AgentResource | None, path: Path) -> Condition | None:
        """Returns the condition of `text`; None without one. Raises InvalidDocumentError."""
        return None if text is None else self.required(text, resource, path)

    def required(self, text: str, resource: AgentResource | None, path: Path) -> Condition:
        """Returns the condition of `text`. Raises InvalidDocumentError."""
        columns = {each.name: each for each in (resource.columns if resource else ())}
        columns |= {f"{step}.{name}": each for step, found in self._fields.items() for name, each in found.items()}
        line = line_of(self._lines, path)
        try:
            policy, condition = expression(text, resource)
            if self._broken & {name.partition(".")[0] for name in condition_names(condition) if "." in name}:
                return condition
            reasons = [reason for _, reason in condition_errors(condition, columns)]
            if not reasons:
                fields = {step: tuple(found.values()) for step, found in self._fields.items()}
                reasons = [each.reason for each in validate(policy, step_schema(resource, fields))]
        except CedarError as error:
            raise InvalidDocumentError(Diagnostic(line, f"{text:.80}: {error.reason}")) from None
        if reasons:
            raise InvalidDocumentError(*(Diagnostic(line, f"{text:.80}: {reason}") for reason in reasons))
        return condition
