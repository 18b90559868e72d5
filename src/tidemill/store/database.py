"""One way into SQLite and PostgreSQL: a transaction is a plain function of a connection.

``await database.write(work)`` runs ``work(connection)`` in a transaction on a thread of its own
and returns what it returned once that is durable; ``read`` does the same without writing. The
function must touch nothing but the connection and its arguments: it may be run again.

SQLite has one writer, so all writes pass through one thread, which commits those that arrive
while it is busy together (each in a savepoint of its own, so that one that fails takes nothing
with it): durability (``synchronous=FULL``) then costs one sync for many launches.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from tidemill.model.errors import Unavailable

T = TypeVar("T")
Work = Callable[[Connection], T]

GROUP_MOST = 64
READERS = 4


def _unavailable(error: DBAPIError) -> Unavailable:
    return Unavailable(
        "The database does not answer or cannot write; nothing was changed, please try again later",
        code="databaseUnavailable",
        detail=str(error.orig),
    )


class Database:
    """A database. Raises Unavailable when it gives no answer or its disk is full."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writing: _GroupWriter | None = _GroupWriter(_sqlite(url, "BEGIN IMMEDIATE", NullPool))
            self.engine = _sqlite(url, "BEGIN", QueuePool)
        else:
            self._writing = None
            self.engine = create_engine(url, pool_size=READERS, max_overflow=READERS, pool_pre_ping=True)
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="database")

    async def write(self, work: Work[T]) -> T:
        """Run ``work`` in a transaction; returns after it is durable. Raises what ``work`` raises."""
        if self._writing is not None:
            return await asyncio.wrap_future(self._writing.submit(work))
        return await self._in_thread(work)

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on a consistent view of what is committed."""
        return await self._in_thread(work)

    async def _in_thread(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, work)

    def _run(self, work: Work[T]) -> T:
        try:
            with self.engine.begin() as connection:
                return work(connection)
        except OperationalError as error:
            raise _unavailable(error) from error

    def run(self, work: Work[T]) -> T:
        """The same as ``write`` for callers without an event loop (set-up commands)."""
        if self._writing is not None:
            return self._writing.submit(work).result()
        return self._run(work)

    def close(self) -> None:
        """Finish what was submitted and let every connection go."""
        if self._writing is not None:
            self._writing.close()
        self._pool.shutdown(wait=True)
        self.engine.dispose()


def _sqlite(url: str, begin: str, pool: type[NullPool | QueuePool]) -> Engine:
    options: dict[str, Any] = {"pool_size": READERS} if pool is QueuePool else {}
    engine = create_engine(url, poolclass=pool, connect_args={"check_same_thread": False}, **options)

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


class _GroupWriter:
    """The one thread that writes to SQLite, committing what waits for it in groups."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="database-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T]) -> Future[T]:
        future: Future[T] = Future()
        self._queue.put((work, future))
        return future

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._engine.dispose()

    def _serve(self) -> None:
        connection: Connection | None = None
        while (first := self._queue.get()) is not None:
            try:
                connection = connection or self._engine.connect()
                last = self._group(connection, first)
            except DBAPIError as error:  # no connection to be had: this one is told, the next one tries anew
                first[1].set_exception(_unavailable(error))
                last = False
            if connection is not None and connection.invalidated:
                connection.close()
                connection = None
            if last:
                break
        if connection is not None:
            connection.close()

    def _group(self, connection: Connection, first: tuple[Work[Any], Future[Any]]) -> bool:
        """Run ``first`` and whatever waits behind it, then commit. True when told to end."""
        done: list[tuple[Future[Any], Any]] = []
        ended = False
        item: tuple[Work[Any], Future[Any]] | None = first
        try:
            with connection.begin():
                while item is not None:
                    work, future = item
                    if future.set_running_or_notify_cancel():
                        try:
                            with connection.begin_nested():
                                result = work(connection)
                        except OperationalError as error:
                            future.set_exception(_unavailable(error))
                        except Exception as error:
                            future.set_exception(error)
                        else:
                            done.append((future, result))
                    item = None
                    if len(done) < GROUP_MOST:
                        try:
                            item = self._queue.get_nowait()
                            ended = item is None
                        except queue.Empty:
                            pass
        except DBAPIError as error:
            for future, _ in done:
                future.set_exception(_unavailable(error))
            connection.invalidate()
        else:
            for future, result in done:
                future.set_result(result)
        return ended
