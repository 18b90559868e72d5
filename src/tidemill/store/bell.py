"""The bells between the servers of one PostgreSQL: NOTIFY by whoever wrote, LISTEN by whoever works or tells.

A ring carries no data but who rang, so that nobody is woken by themselves. It is sent right after the
transaction that it is about and not inside of it: PostgreSQL commits transactions that notify one after
the other. A ring that is lost costs a beat of the loop, nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Connection, func, select

from tidemill.store.database import Database
from tidemill.store.postgres import OURS

WORK = "tidemill"  # there may be something to do
NEWS = "tidemill_news"  # something was recorded


class Bell:
    """One server's rope of a bell; ``who`` is not used by any other."""

    def __init__(self, database: Database, who: str, channel: str = WORK) -> None:
        self._database = database
        self._who = who
        self._channel = channel

    async def ring(self) -> None:
        """Wake the other servers. Raises Unavailable."""

        def work(connection: Connection) -> None:
            connection.execute(select(func.pg_notify(self._channel, self._who)))

        await self._database.write(work, durable=False)

    async def rings(self) -> AsyncGenerator[None]:
        """Yields for every ring of another server, and once at the start: rings until then were not heard.

        Raises psycopg.Error, OSError when the connection is lost or cannot be had.
        """
        async with await psycopg.AsyncConnection[Any].connect(**self._address(), autocommit=True) as line:
            await line.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            yield
            async for heard in line.notifies():
                if heard.payload != self._who:
                    yield

    def _address(self) -> dict[str, Any]:
        url = self._database.url
        _, said = url.get_dialect()().create_connect_args(url)
        return {**OURS, **said}
