"""Parameter of routes that names an environment by its own id or by its tenant's."""

from typing import Annotated

from fastapi import Path

from paybill_provisioner.domain.environments import id_of

EnvironmentOrTenantId = Annotated[
    str,
    Path(
        description="The environment's id (`env_…`) or its tenant's (`ten_…`).",
        pattern=r"^(env|ten)_[0-9a-f]{32}$",
        examples=["env_0123456789abcdef0123456789abcdef"],
    ),
]


def id_from(name: str) -> str:
    """Returns the id of an environment from that of the environment or its tenant."""
    return id_of(name) if name.startswith("ten_") else name
