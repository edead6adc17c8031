"""The matrix of routes and roles is measured, and every key without the rights is refused."""

from typing import Any

import pytest
from paybill_runtime.http.auth import Role
from route_rights import DOCUMENT, current, measure, rights_of, section

ACCEPT_AGENTS = {
    ("agent-gateway", "POST", "/mcp"),
    ("agent-gateway", "POST", "/v1/workflows/{name}/runs"),
    ("agent-gateway", "POST", "/v1/runs/{run}/steps/{step}"),
    ("agent-gateway", "GET", "/v1/runs/{run}"),
}
"""Service, method and path of the routes that accept agents; each of them compares the tenant."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return measure(tmp_path_factory.mktemp("services"))


def test_the_matrix_in_the_document_is_measured(answers: Any) -> None:
    assert current(DOCUMENT.read_text()) == section(answers), "run `.venv/bin/python tests-e2e/route_rights.py`"


def test_only_routes_that_compare_the_tenant_accept_agents(answers: Any) -> None:
    found = {
        (name, *route)
        for name, routes in answers.items()
        for route, each in routes.items()
        if rights_of(name, each).agents
    }

    assert found == ACCEPT_AGENTS


def test_every_key_without_the_rights_of_a_route_is_refused(answers: Any) -> None:
    for name, routes in answers.items():
        assert len(routes) > 20
        for route, each in routes.items():
            unknown = [each[key] for key in ("expired", "revoked", "wrong secret", "unknown")]
            foreign = [each[key][:3] for key in ("other read", "other write", "other agent")]
            assert (each["no key"], {*unknown}, {*foreign}) == ("401 no_key", {"401 wrong_key"}, {"403"}), (name, route)
            roles = rights_of(name, each).roles
            assert roles == {role for role in Role if roles and role >= min(roles)}, (name, route)
