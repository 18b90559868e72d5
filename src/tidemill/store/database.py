"""One way into SQLite and PostgreSQL: a transaction is a plain function of a connection.

``await database.write(work)`` runs ``work(connection)`` in a transaction and returns what it returned
once that is durable; ``read`` does the same without writing. The function must touch nothing but the
connection and its arguments: it may be run again.

PostgreSQL's transactions run on threads. SQLite has one writer, and its statements take microseconds:
they run on the event loop itself, where nothing waits for the interpreter lock, and everything that
arrives while a commit is under way is committed together by the next one. Only the commit, which waits
for the disk (``synchronous=FULL``), runs on a thread. One that fails takes nothing with it: the group is
rolled back and each is run by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tidemill.model.errors import Misconfigured
from tidemill.store.sqlite import Group, Inline, open_engine
from tidemill.store.trouble import is_trouble, unavailable

T = TypeVar("T")
Work = Callable[[Connection], T]

THREADS = 4


class Database:
    """A database. Raises Unavailable when it gives no answer, is damaged, or its disk is full.

    Made from a SQLAlchemy URL. Raises Misconfigured for one that leads nowhere.
    """

    def __init__(self, url: str) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="database")
        try:
            self.url = make_url(url)
            self._open(self.url)
        except (ArgumentError, ImportError) as error:  # the URL may hold a password: not shown
            raise Misconfigured(
                "setting database_url is no URL of a database this version knows "
                "(sqlite:///..., postgresql://...)",
                detail=type(error).__name__,
            ) from None

    def _open(self, url: URL) -> None:
        self._group: Group | None = None
        self._inline: Inline | None = None
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writing = open_engine(url, "BEGIN IMMEDIATE")
            self._reading = open_engine(url, "BEGIN")
            self._group = Group(url, self._pool)
            self._inline = Inline(url, "BEGIN")
        else:
            self._writing = create_engine(url, pool_size=THREADS, pool_pre_ping=True, hide_parameters=True)
            self._reading = self._writing

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Run ``work`` in a transaction; returns after it is durable. Raises what ``work`` raises.

        What may be lost when the machine loses its power (a lease, a hint when to look again) says
        ``durable=False`` and does not wait for the disk. No process that dies loses it.
        """
        if self._group is not None:
            return await self._group.write(work, durable)
        return await self._in_thread(self._writing, work)

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on a consistent view of what is committed; it takes no more than milliseconds."""
        if self._inline is None:
            return await self._in_thread(self._reading, work)
        try:
            with self._inline.transaction() as connection:
                return work(connection)
        except Exception as error:
            if is_trouble(error):
                raise unavailable(error) from error
            raise

    async def read_much(self, work: Work[T]) -> T:
        """The same for work that may take long: others go on meanwhile."""
        return await self._in_thread(self._reading, work)

    def run(self, work: Work[T]) -> T:
        """The same as ``write`` on the calling thread, for callers without an event loop."""
        return self._run(self._writing, work)

    async def _in_thread(self, engine: Engine, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, engine, work)

    @staticmethod
    def _run(engine: Engine, work: Work[T]) -> T:
        try:
            with engine.begin() as connection:
                return work(connection)
        except Exception as error:
            if is_trouble(error):
                raise unavailable(error) from error
            raise

    def close(self) -> None:
        """Let every connection go; what was not committed is not done."""
        self._pool.shutdown(wait=True)
        for part in (self._group, self._inline):
            if part is not None:
                part.close()
        self._writing.dispose()
        self._reading.dispose()
