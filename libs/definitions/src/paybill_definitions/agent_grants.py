"""Reads grants.cedar of a bundle: Cedar policies in a subset, as grants in canonical form."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from paybill_contracts.agent_bundles import AgentResource, Effect, Grant, Verb
from paybill_contracts.agent_expressions import Condition
from paybill_contracts.inputs import PlainText
from paybill_contracts.values import Key
from pydantic import TypeAdapter, ValidationError

from paybill_definitions.agent_cedar import ACTIONS, Schema, parsed, schema, validate, when
from paybill_definitions.agent_conditions import errors as condition_errors
from paybill_definitions.cedar_text import CedarError, OutsideSubsetError, PolicyText, split
from paybill_definitions.yaml_lines import MAX_BYTES, Diagnostic, InvalidDocumentError, Lines, together

_ID: TypeAdapter[str] = TypeAdapter(PlainText)
_ROLE: TypeAdapter[str] = TypeAdapter(Key)
_ANNOTATIONS = frozenset({"id", "columns"})


def read_grants(text: str, resources: Sequence[AgentResource]) -> tuple[tuple[Grant, ...], Lines]:
    """Returns the grants, sorted by id, and their lines by `(id,)` and `(id, "condition", name)`.

    Raises InvalidDocumentError with every error.
    """
    if len(text) > MAX_BYTES:
        raise InvalidDocumentError(Diagnostic(1, f"the file is larger than {MAX_BYTES} bytes"))
    try:
        policies = split(text)
    except CedarError as error:
        raise InvalidDocumentError(Diagnostic(error.line, error.reason)) from None
    cedar_schema = schema(resources)
    grants: dict[str, Grant] = {}
    lines: Lines = {}
    faults: list[Diagnostic] = []
    for policy in policies:
        try:
            found = _Policy(policy, parsed(policy), {each.name: each for each in resources})
        except CedarError as error:
            faults.append(Diagnostic(error.line, error.reason))
            continue
        grant = found.grant()
        faults += found.faults
        if grant is None:
            continue
        faults += _errors(grant, policy, resources, cedar_schema) if not found.faults else ()
        if grant.id in grants:
            faults.append(Diagnostic(policy.line_of(grant.id), f'the id "{grant.id}" is used twice'))
        grants[grant.id] = grant
        lines[grant.id,] = policy.line
        lines |= {(grant.id, "condition", token.text.strip('"')): token.line for token in reversed(policy.tokens)}
    if faults:
        raise InvalidDocumentError(*faults)
    return tuple(grants[each] for each in sorted(grants)), lines


def _errors(
    grant: Grant, policy: PolicyText, resources: Sequence[AgentResource], cedar_schema: Schema
) -> Iterator[Diagnostic]:
    """Yields our own errors, which name columns and therefore lines; without any, those of Cedar's validator."""
    own = list(_condition_errors(grant.condition, grant.resources, policy, resources))
    yield from own or (Diagnostic(each.line, each.reason) for each in validate(policy, cedar_schema))


def _condition_errors(
    condition: Condition | None, names: Iterable[str], policy: PolicyText, resources: Iterable[AgentResource]
) -> Iterator[Diagnostic]:
    for resource in (each for each in resources if condition is not None and each.name in names):
        columns = {column.name: column for column in resource.columns}
        for name, reason in condition_errors(condition, columns) if condition is not None else ():
            yield Diagnostic(policy.line_in_condition(name), f"{resource.name}: {reason}")


class _Policy:
    """One policy in Cedar's JSON. faults: all errors so far."""

    def __init__(self, policy: PolicyText, tree: Mapping[str, Any], resources: Mapping[str, AgentResource]) -> None:
        self._policy = policy
        self._tree = tree
        self._resources = resources
        self._annotations: Mapping[str, str] = tree.get("annotations", {})
        self.faults: list[Diagnostic] = []

    def grant(self) -> Grant | None:
        """Returns the policy in canonical form; None when a part has an error."""
        effect = Effect(self._tree["effect"])
        resources = self._part(self._named_resources) or ()
        self.faults += self._annotation_faults()
        parts = {
            "id": self._part(self._id),
            "role": self._part(self._role),
            "verbs": self._part(self._verbs),
            "columns": self._part(lambda: self._columns(resources, effect)),
            "condition": self._part(lambda: when(self._tree["conditions"])),
        }
        if self.faults:
            condition = parts["condition"]
            known = self._resources.values()
            self.faults += _condition_errors(condition, resources, self._policy, known)
            return None
        return Grant(effect=effect, resources=resources, **parts)

    def _part(self, read: Callable[[], Any]) -> Any:
        """Returns a part; None for one with an error, which is reported."""
        try:
            return read()
        except CedarError as error:
            self.faults.append(Diagnostic(error.line, error.reason))
        except OutsideSubsetError as error:
            self.faults.append(Diagnostic(self._policy.line_in_condition(error.near), error.reason))
        except InvalidDocumentError as error:
            self.faults += error.diagnostics
        return None

    def _annotation_faults(self) -> Iterator[Diagnostic]:
        for name in self._annotations:
            if name not in _ANNOTATIONS:
                reason = f"@{name} is no annotation of a grant, only @id and @columns"
                yield Diagnostic(self._policy.line_of(name), reason)

    def _error(self, name: str, reason: str) -> CedarError:
        return CedarError(self._policy.line_of(name), reason)

    def _id(self) -> str:
        try:
            return _ID.validate_python(self._annotations.get("id"))
        except ValidationError:
            raise self._error("id", 'a policy needs @id("…") with one line of 1 to 500 characters') from None

    def _role(self) -> str | None:
        principal = self._tree["principal"]
        entity = principal.get("entity", {})
        if principal["op"] == "All":
            return None
        try:
            if principal["op"] in {"in", "=="} and entity.get("type") == "Role":
                return _ROLE.validate_python(entity["id"])
        except ValidationError:
            reason = f"the role {entity['id']:.80} is no name of 1 to 63 of a-z, 0-9, dash and underscore"
            raise self._error(entity["id"], reason) from None
        raise self._error("principal", 'the principal is a role: write `principal in Role::"name"`')

    def _verbs(self) -> tuple[Verb, ...]:
        action = self._tree["action"]
        if action["op"] == "All":
            return tuple(sorted(Verb))
        entities = action.get("entities") or [action["entity"]]
        for each in entities:
            if each["type"] != "Action" or each["id"] not in ACTIONS:
                known = ", ".join(f'Action::"{name}"' for name in ACTIONS)
                raise self._error(each["id"], f'{each["type"]}::"{each["id"]:.80}" is no action, only {known}')
        return tuple(sorted({Verb(each["id"]) for each in entities}))

    def _named_resources(self) -> tuple[str, ...]:
        resource = self._tree["resource"]
        match resource["op"]:
            case "All":
                return tuple(sorted(self._resources))
            case "is" if "in" not in resource:
                name = resource["entity_type"]
                if name not in self._resources:
                    known = ", ".join(sorted(self._resources))
                    raise self._error(name, f"there is no resource {name:.80}, only {known}")
                return (name,)
            case _:
                raise self._error(
                    "resource", "a resource is a table: write `resource is refunds`, or `resource` for all"
                )

    def _columns(self, resources: Sequence[str], effect: Effect) -> dict[str, tuple[str, ...]]:
        text = self._annotations.get("columns")
        if effect is Effect.FORBID:
            if text is not None:
                raise self._error("columns", "a forbid is about whole rows; remove @columns")
            return {}
        if text is None:
            raise self._error("permit", 'a permit needs @columns("*"), or the names: @columns("id, amount")')
        return together(**{name: partial(self._columns_of, self._resources[name], text) for name in resources})

    def _columns_of(self, resource: AgentResource, text: str) -> tuple[str, ...]:
        if text.strip() == "*":
            return tuple(sorted(each.name for each in resource.columns if not each.hidden))
        columns = {each.name: each for each in resource.columns}
        names = [each.strip() for each in text.split(",")]
        unknown = [
            f"{resource.name} has no column {name:.80}, only {', '.join(columns)}"
            for name in names
            if name not in columns
        ]
        hidden = [
            f"{resource.name}.{name} is hidden; no grant may name it"
            for name in names
            if name in columns and columns[name].hidden
        ]
        if unknown or hidden:
            line = self._policy.line_of("columns")
            raise InvalidDocumentError(*(Diagnostic(line, reason) for reason in (*unknown, *hidden)))
        return tuple(sorted(set(names)))
