"""`python -m paybill_bench.inside_provisioner.logins URL PASSWORD_FILE`: creates logins of pools like the local driver.

It reads a line `<login> <database of its pool>` for each from its input.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from paybill_contracts.placement import Isolation
from paybill_provisioner.drivers.namespaces import groups
from paybill_provisioner.drivers.roles import TenantRoles
from paybill_provisioner.drivers.server import TenantServer

_CONCURRENT = 8


async def create(url: str, password: str, logins: Iterator[list[str]]) -> None:
    """Creates all logins, open and with the memberships of their pools."""
    server = TenantServer(url, password)
    roles = TenantRoles(server)

    async def work() -> None:
        for login, database in logins:
            await roles.change(login, None, "NOINHERIT LOGIN CONNECTION LIMIT 10", groups(Isolation.POOL, database))

    await asyncio.gather(*(work() for _ in range(_CONCURRENT)))
    await server.close()


if __name__ == "__main__":
    asyncio.run(create(sys.argv[1], Path(sys.argv[2]).read_text("ascii").strip(), map(str.split, sys.stdin)))
