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
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InternalError, OperationalError
from sqlalchemy.pool import QueuePool

from tidemill.model.errors import Misconfigured, Unavailable

T = TypeVar("T")
Work = Callable[[Connection], T]

GROUP_MOST = 32
THREADS = 4


def _is_no_answer(error: Exception) -> bool:
    """Whether the database itself is in trouble; SQLite says so of a damaged file by the bare class."""
    return isinstance(error, OperationalError | InternalError) or type(error) is DatabaseError


def _unavailable(error: DBAPIError) -> Unavailable:
    return Unavailable(
        "The database does not answer or cannot write; nothing was changed, please try again later",
        code="databaseUnavailable",
        detail=str(error.orig),
    )


class Database:
    """A database. Raises Unavailable when it gives no answer, is damaged, or its disk is full.

    Made from a SQLAlchemy URL. Raises Misconfigured for one that leads nowhere.
    """

    def __init__(self, url: str) -> None:
        try:
            self._open(url)
        except (ArgumentError, ImportError) as error:  # the URL may hold a password: not shown
            raise Misconfigured(
                "setting database_url is no URL of a database this version knows "
                "(sqlite:///..., postgresql://...)",
                detail=type(error).__name__,
            ) from None

    def _open(self, url: str) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="database")
        if self.is_sqlite:
            self.engine = _sqlite(url, "BEGIN")
            self._group: _Group | None = _Group(
                _sqlite(url, "BEGIN IMMEDIATE"), _sqlite(url, "BEGIN IMMEDIATE", "NORMAL"), self._pool
            )
        else:
            self.engine = create_engine(url, pool_size=THREADS, pool_pre_ping=True, hide_parameters=True)
            self._group = None

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Run ``work`` in a transaction; returns after it is durable. Raises what ``work`` raises.

        What may be lost when the machine loses its power (a lease, a hint when to look again) says
        ``durable=False`` and does not wait for the disk. No process that dies loses it.
        """
        if self._group is not None:
            return await self._group.write(work, durable)
        return await self._in_thread(work)

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on a consistent view of what is committed; it takes no more than milliseconds."""
        if self._group is not None:
            return self._run(self.engine, work)
        return await self._in_thread(work)

    async def read_much(self, work: Work[T]) -> T:
        """The same for work that may take long: others go on meanwhile."""
        return await self._in_thread(work)

    async def _in_thread(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, self.engine, work)

    @staticmethod
    def _run(engine: Engine, work: Work[T]) -> T:
        try:
            with engine.begin() as connection:
                return work(connection)
        except DatabaseError as error:
            if _is_no_answer(error):
                raise _unavailable(error) from error
            raise

    def run(self, work: Work[T]) -> T:
        """The same as ``write`` for callers without an event loop (set-up commands)."""
        return self._run(self._group.engine if self._group is not None else self.engine, work)

    def close(self) -> None:
        """Let every connection go; what was not committed is not done."""
        self._pool.shutdown(wait=True)
        if self._group is not None:
            self._group.close()
        self.engine.dispose()


def _sqlite(url: str, begin: str, synchronous: str = "FULL") -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=THREADS,
        connect_args={"check_same_thread": False},
        hide_parameters=True,  # they hold init scripts, keys and hashes, and errors end up in logs
    )

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
            "busy_timeout=5000",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


@dataclass(slots=True)
class _Waiting:
    """Somebody's work, and where its result is waited for."""

    work: Work[Any]
    durable: bool
    future: asyncio.Future[Any]


class _Group:
    """Whatever waits to be written to SQLite, written and committed together."""

    def __init__(self, engine: Engine, relaxed: Engine, pool: ThreadPoolExecutor) -> None:
        self.engine = engine
        self._relaxed = relaxed  # commits without waiting for the disk
        self._pool = pool
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    async def write(self, work: Work[T], durable: bool) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Waiting(work, durable, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = loop.create_task(self._flush())
        return await asyncio.shield(future)

    async def _flush(self) -> None:
        while self._waiting:
            group = self._waiting[:GROUP_MOST]
            del self._waiting[:GROUP_MOST]
            if not await self._commit(group):
                for one in group:
                    await self._commit([one])

    async def _commit(self, group: list[_Waiting]) -> bool:
        """Run and commit a group; False when one of several failed and each has to be run by itself."""
        results: list[Any] = []
        durable = any(one.durable for one in group)
        try:
            with (self.engine if durable else self._relaxed).connect() as connection:
                transaction = connection.begin()
                try:
                    results.extend(one.work(connection) for one in group)
                    if durable:
                        await asyncio.get_running_loop().run_in_executor(self._pool, transaction.commit)
                    else:
                        transaction.commit()
                except BaseException:
                    transaction.rollback()
                    raise
        except Exception as error:
            if len(group) > 1:
                return False
            failed = _unavailable(error) if isinstance(error, DBAPIError) and _is_no_answer(error) else error
            if not group[0].future.done():
                group[0].future.set_exception(failed)
            return True
        for one, result in zip(group, results, strict=True):
            if not one.future.done():
                one.future.set_result(result)
        return True

    def close(self) -> None:
        self.engine.dispose()
        self._relaxed.dispose()
