"""All prices there ever were."""

from __future__ import annotations

from datetime import datetime

from tidemill.actions.context import Context
from tidemill.store import tariffs
from tidemill.store.tariffs import Price


async def price_history(
    context: Context,
    *,
    offset: int,
    limit: int,
    type_id: str | None,
    region_id: str | None,
    mode: str | None,
    since: datetime | None,
    until: datetime | None,
) -> tuple[list[Price], int]:
    """One page of the prices set in [since, until), newest first, and how many there are in all pages."""
    return await context.database.read_much(
        lambda connection: tariffs.history(
            connection,
            offset=offset,
            limit=limit,
            type_id=type_id,
            region_id=region_id,
            mode=mode,
            since=since,
            until=until,
        )
    )
