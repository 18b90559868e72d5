"""The caller's ledger, posting by posting."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.model.account import Caller
from tidemill.model.ledger import Cause, Posting
from tidemill.store import postings
from tidemill.store.postings import Chosen


async def transactions(
    context: Context,
    caller: Caller,
    *,
    offset: int,
    limit: int,
    since: datetime | None,
    until: datetime | None,
    instance_id: str | None,
    causes: Collection[Cause],
) -> tuple[list[Posting], int]:
    """One page of the caller's postings, newest first, and how many there are in all pages."""
    chosen = Chosen(caller.user.id, since, until, instance_id, causes)

    def work(connection: Connection) -> tuple[list[Posting], int]:
        found, _ = postings.page(connection, chosen, offset=offset, limit=limit, newest_first=True)
        return found, postings.count(connection, chosen)

    return await context.database.read_much(work)
