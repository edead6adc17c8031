"""The lists of use cases in the READMEs are current."""

import pytest
from use_cases import current, services, use_cases


@pytest.mark.parametrize("service", services())
def test_the_use_cases_in_a_readme_are_those_of_the_service(service: str) -> None:
    assert current(service) == use_cases(service), "run `.venv/bin/python tests-e2e/use_cases.py`"
