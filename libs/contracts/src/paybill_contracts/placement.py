"""Isolation of a tenant per layer, and the presets pooled, bridge and silo."""

from enum import StrEnum

from paybill_contracts.event import Value


class Isolation(StrEnum):
    """Sharing of one layer: with all tenants, in part, or not at all."""

    POOL = "pool"
    BRIDGE = "bridge"
    SILO = "silo"


class Preset(StrEnum):
    """Named combinations of isolation levels."""

    POOLED = "pooled"
    BRIDGE = "bridge"
    SILO = "silo"


class Placement(Value):
    """The isolation of every layer."""

    compute: Isolation
    data: Isolation
    network: Isolation
    storage: Isolation
    identity: Isolation
    secrets: Isolation


def placement_of(preset: Preset) -> Placement:
    """Returns the isolation levels of a preset. Identity and secrets are never shared between tenants."""
    level = {Preset.POOLED: Isolation.POOL, Preset.BRIDGE: Isolation.BRIDGE, Preset.SILO: Isolation.SILO}[preset]
    compute = Isolation.SILO if preset is Preset.SILO else Isolation.POOL
    return Placement(
        compute=compute,
        data=level,
        network=compute,
        storage=level,
        identity=Isolation.SILO,
        secrets=Isolation.SILO,
    )
