"""Settings of the agent gateway: those of every service."""

from paybill_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """The gateway has no setting of its own."""
