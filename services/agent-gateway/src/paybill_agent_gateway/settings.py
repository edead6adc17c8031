"""Settings of the agent gateway, in addition to those of every service."""

from typing import Annotated

from paybill_runtime.settings import ServiceSettings
from pydantic import Field


class Settings(ServiceSettings):
    """agent_origins: origins of browsers' pages that may call agents, such as `https://chat.example`, with commas.

    Pages of this machine always may. A request without an origin comes from no page.
    """

    agent_origins: Annotated[
        str, Field(pattern=r"^(https?://[A-Za-z0-9.\[\]:-]{1,253}(,https?://[A-Za-z0-9.\[\]:-]{1,253})*)?$")
    ] = ""

    def origins(self) -> frozenset[str]:
        """Returns the origins."""
        return frozenset(filter(None, self.agent_origins.split(",")))
