"""What the environment decides: for this service, what it decides for every one."""

from paybill_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """Nothing of its own: plans and regions come as facts, and it calls nobody."""
