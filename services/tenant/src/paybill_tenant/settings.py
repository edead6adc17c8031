"""Settings of the tenant service: only those of every service."""

from paybill_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """No settings of its own: plans and regions come as events, and it calls no other system."""
