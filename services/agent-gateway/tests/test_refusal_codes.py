"""Every refusal of a call has one code, and the documentation lists it with its HTTP status."""

import inspect
import re
from pathlib import Path

from paybill_agent_gateway.domain import grants, refusals, tenants
from paybill_agent_gateway.domain.answers import refusal
from paybill_contracts.errors import ConflictError, DomainError, ForbiddenError, NotFoundError, RetryLaterError

STATUS = {NotFoundError: 404, ConflictError: 409, ForbiddenError: 403, RetryLaterError: 503}
DOCUMENT = Path(__file__).parents[3] / "docs" / "agents.md"


def status_of(error: type[DomainError]) -> int:
    return next((status for kind, status in STATUS.items() if issubclass(error, kind)), 422)


def refusals_of_calls() -> dict[str, type[DomainError]]:
    classes = [each for module in (refusals, tenants) for _, each in inspect.getmembers(module, inspect.isclass)]
    classes.remove(tenants.TenantLeftError)  # of the registration of an agent, and of no call
    own = [each for each in classes if issubclass(each, DomainError) and "code" in vars(each)]
    return {each.code: each for each in own if each.__module__.startswith("paybill_agent_gateway")}


def test_the_documentation_lists_every_code_with_its_status() -> None:
    listed = dict(re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", DOCUMENT.read_text(), flags=re.MULTILINE))

    assert {code: str(status_of(error)) for code, error in refusals_of_calls().items()} == listed


def test_the_documentation_lists_every_rule_of_grants() -> None:
    rules = {value for name, value in vars(grants).items() if name.isupper() and isinstance(value, str)}

    assert rules == set(re.findall(r"^\| `([a-z_]+)` \| [A-Z]", DOCUMENT.read_text(), flags=re.MULTILINE))


def test_a_refusal_keeps_the_kind_of_its_rule() -> None:
    for code, error in refusals_of_calls().items():
        refused = refusal(error("no"), run="run", seq=1)

        assert (refused.code, status_of(type(refused)), str(refused)) == (code, status_of(error), "no")
        assert refused.document() == {"code": code, "message": "no", "next": [], "run": "run", "seq": 1}
