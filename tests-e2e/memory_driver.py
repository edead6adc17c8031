"""A cloud in memory, on which everything succeeds at once."""

from typing import Any

from blueprint_sample import OUTPUTS
from paybill_contracts.provisioner import Access, Export
from paybill_provisioner.drivers import Done

EXPORT = Export(location="exports/x.jsonl.gz", sha256="ab" * 32, size_bytes=10, rows=1)
ABSENT = "nothing found"


class MemoryDriver:
    """A cloud on which everything succeeds."""

    unique_names = frozenset(address.partition(".")[0] for address in OUTPUTS)
    settled_after_s = 0.0

    async def create(self, resource: Any, _site: Any, _token: str) -> Done:
        """Creates the resource at once."""
        return Done(OUTPUTS[resource.address])

    async def delete(self, _resource: Any, _site: Any) -> Done:
        """Deletes the resource at once."""
        return Done({})

    async def absence(self, _resource: Any, _site: Any) -> str:
        """Returns a reading that finds nothing."""
        return ABSENT

    async def set_access(self, _environment: Any, _access: Access) -> None:
        """Sets nothing: the environment records it."""

    async def export(self, _environment: Any) -> Export:
        """Returns an export."""
        return EXPORT

    async def delete_export(self, _export: Export) -> str:
        """Returns a reading that finds nothing."""
        return ABSENT
