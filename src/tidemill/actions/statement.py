"""A statement: what somebody owned, every change of it, and what they own then."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.model.account import Caller
from tidemill.model.ledger import Cause, Posting
from tidemill.store import postings
from tidemill.store.postings import Chosen

INSIDE = (Cause.HOLD, Cause.RELEASE)  # from one of the user's accounts to another: no change
BATCH = 500


@dataclass(frozen=True, slots=True)
class Statement:
    """The time [since, until): ``opening`` and all ``totals`` are ``closing``, in micro-units.

    ``lines`` are those of one page, oldest first; ``count`` is how many there are. ``since`` is None for
    the beginning, ``until`` None for all that was written by ``at``.
    """

    since: datetime | None
    until: datetime | None
    at: datetime
    opening: int
    totals: Mapping[Cause, int]
    lines: tuple[Posting, ...]
    count: int

    @property
    def closing(self) -> int:
        return self.opening + sum(self.totals.values())


async def statement(
    context: Context,
    caller: Caller,
    *,
    since: datetime | None,
    until: datetime | None,
    offset: int,
    limit: int,
) -> Statement:
    """One page of the caller's statement."""
    now = context.clock.now()
    if until is not None and until > now:
        until = None
    chosen = Chosen(caller.user.id, since, until, but=INSIDE)

    def work(connection: Connection) -> Statement:
        lines, _ = postings.page(connection, chosen, offset=offset, limit=limit) if limit else ([], 0)
        return Statement(
            since=since,
            until=until,
            at=now,
            opening=0 if since is None else _owned(connection, caller.user.id, since),
            totals=postings.sums(connection, chosen),
            lines=tuple(lines),
            count=postings.count(connection, chosen),
        )

    return await context.database.read_much(work)


def _owned(connection: Connection, user_id: str, at: datetime) -> int:
    return sum(postings.sums(connection, Chosen(user_id, until=at, but=INSIDE)).values())


async def all_lines(context: Context, caller: Caller, found: Statement) -> AsyncGenerator[list[Posting]]:
    """Every line of a statement, batch by batch, oldest first."""
    chosen = Chosen(caller.user.id, found.since, found.until, but=INSIDE)
    after = 0
    while True:
        lines, after = await context.database.read_much(
            lambda connection, place=after: postings.page(connection, chosen, limit=BATCH, after=place)
        )
        if lines:
            yield lines
        if len(lines) < BATCH:
            return
