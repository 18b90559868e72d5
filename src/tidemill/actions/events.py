"""What happens to the caller's instances, as it happens: a stream that goes on where another one ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from sqlalchemy import Connection

from tidemill.actions.ask import must_reach, not_found
from tidemill.actions.context import Context
from tidemill.model.account import Caller
from tidemill.model.errors import Unavailable
from tidemill.store import instances, news
from tidemill.store.news import Change

QUIET = 15.0  # seconds without news after which something is sent all the same
AGAIN = 1.0  # seconds until a database that gave no answer is asked again
MOST = 100  # events that a listener is handed at a time: all that one of them has in memory


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a stream, which may be empty: then it says that it is still there.

    ``until`` is up to where everything was told: where another stream goes on. ``lost`` says that this
    server's database does not know where the caller was: it was restored from a backup that is older.
    """

    until: int
    changes: tuple[Change, ...] = ()
    lost: bool = False


async def open_events(
    context: Context, caller: Caller, *, after: int | None, instance_id: str | None, follow: bool
) -> AsyncGenerator[Piece]:
    """Everything that happens after the event ``after``, or from now on (None); its first piece is empty.

    It ends when the server is to stop, and at once when all was told that is known, unless it is to
    ``follow``. Nothing of the database is held while the reader takes its time. Raises NotFound (no such
    instance), TooManyAttempts (so many are open), Unavailable.
    """
    instance_id = caller.instance_id if instance_id is None else instance_id
    if instance_id is not None:
        must_reach(caller, instance_id)

        def work(connection: Connection) -> bool:
            return instances.get(connection, instance_id, user_id=caller.user.id) is not None

        if not await context.database.read(work):
            raise not_found()
    stream = _told(context, caller.user.id, after, instance_id, follow)
    first = await anext(stream)
    return _chained(first, stream)


async def _chained(first: Piece, rest: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    try:
        yield first
        async for piece in rest:
            yield piece
    finally:
        await rest.aclose()


async def _told(
    context: Context, user_id: str, after: int | None, instance_id: str | None, follow: bool
) -> AsyncGenerator[Piece]:
    here = context.news
    with here.listening(user_id) as listener:
        await here.begun()
        told, lost = here.known if after is None else after, False
        if told > here.known:  # another server may know more, but nobody more than there is
            lost = told > await context.database.read(news.newest)
            told = here.known if lost else told
        yield Piece(told, lost=lost)
        ring = asyncio.ensure_future(listener.wait())
        stop = asyncio.ensure_future(context.stopping.wait())
        try:
            while True:
                pause = QUIET
                try:
                    while told < here.known:
                        found, told = await _read(context, user_id, told, here.known, instance_id)
                        if found:
                            yield Piece(told, found)
                except Unavailable:
                    pause = AGAIN
                if not follow:
                    return
                done, _ = await asyncio.wait({ring, stop}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if stop in done:
                    return
                if ring in done:
                    ring = asyncio.ensure_future(listener.wait())
                else:
                    yield Piece(told)
        finally:
            for waiting in (ring, stop):
                waiting.cancel()
            await asyncio.gather(ring, stop, return_exceptions=True)


async def _read(
    context: Context, user_id: str, after: int, until: int, instance_id: str | None
) -> tuple[tuple[Change, ...], int]:
    def work(connection: Connection) -> tuple[list[Change], int]:
        return news.of_user(connection, user_id, after=after, until=until, most=MOST, instance_id=instance_id)

    found, told = await context.database.read(work)
    return tuple(found), told
