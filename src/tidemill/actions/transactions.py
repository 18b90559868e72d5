"""The caller's ledger, posting by posting."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.operator import find_user
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
    return await context.database.read_much(lambda connection: _page(connection, chosen, offset, limit))


async def transactions_of(
    context: Context,
    *,
    user_id: str,
    username: str,
    offset: int,
    limit: int,
    since: datetime | None,
    until: datetime | None,
    instance_id: str | None,
    causes: Collection[Cause],
) -> tuple[list[Posting], int]:
    """The same of another user, for the operator. Raises NotFound."""

    def work(connection: Connection) -> tuple[list[Posting], int]:
        user = find_user(connection, user_id, username)
        chosen = Chosen(user.id, since, until, instance_id, causes)
        return _page(connection, chosen, offset, limit)

    return await context.database.read_much(work)


def _page(connection: Connection, chosen: Chosen, offset: int, limit: int) -> tuple[list[Posting], int]:
    found, _ = postings.page(connection, chosen, offset=offset, limit=limit, newest_first=True)
    return found, postings.count(connection, chosen)
