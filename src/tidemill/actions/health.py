"""Whether this server can do its work: its database answers and takes writes, its drivers answer."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection, text

from tidemill.actions.context import Context
from tidemill.drivers.contract import DriverError
from tidemill.model.errors import TidemillError

PATIENCE = 5.0


async def ready(context: Context) -> dict[str, str]:
    """What does not answer, and why; empty when all is well."""
    wrong: dict[str, str] = {}

    def work(connection: Connection) -> None:
        connection.execute(text("SELECT 1"))

    try:
        async with asyncio.timeout(PATIENCE):
            await context.database.read(work)
    except (TidemillError, TimeoutError) as error:
        wrong["database"] = str(error) or "no answer in time"
    if "database" not in wrong and context.database.cannot_write:
        wrong["database"] = (
            f"It can be read and not written: {context.database.cannot_write}. Nothing can be launched or "
            "changed until it can; what runs goes on"
        )
    if context.settings.role == "api":  # it reads logs through its drivers, nothing more
        return wrong
    for region_id, driver in context.drivers.items():
        try:
            async with asyncio.timeout(PATIENCE):
                await driver.nodes()
        except (DriverError, TimeoutError) as error:
            wrong[f"region {region_id}"] = str(error) or "no answer in time"
    return wrong
