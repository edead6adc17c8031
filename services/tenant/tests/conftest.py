"""Fixtures for tests of the running service."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paybill_tenant.app import service

# Tests are imported by path, and not as a package: this makes their samples importable.
sys.path.append(str(Path(__file__).parent))

from tenant_samples import SIGN_UP, events_about  # found through the path above


@pytest.fixture
async def tenant(start, publish, log, offerings) -> Any:
    """Returns the running service after it recorded the sign-up options."""
    served = await start(service(), offboarding_delay_s=0)
    await publish(*offerings)
    await log.facts("tenant.offering_noted", at_least=2)
    return served


@pytest.fixture
def about() -> Callable[[str], SimpleNamespace]:
    """Returns a factory of other services' events about a tenant."""
    return events_about


@pytest.fixture
def sign_up() -> dict[str, str]:
    """Returns a valid request."""
    return dict(SIGN_UP)
