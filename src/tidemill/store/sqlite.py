"""SQLite on the event loop: transactions by hand, and writes that are committed together.

It has one writer, and its statements take microseconds: they run on the event loop itself, where
nothing waits for the interpreter lock, and everything that arrives while a commit is under way is
committed together by the next one. Only the commit, which waits for the disk (``synchronous=FULL``),
runs on a thread. One that fails takes nothing with it: the group is rolled back and each is run by
itself. While another process holds the file, the event loop goes on and asks again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from tidemill.store.trouble import is_trouble, unavailable, unknown

T = TypeVar("T")
Begin = Literal["BEGIN", "BEGIN IMMEDIATE"]

GROUP_MOST = 32
BUSY_SECONDS = 5.0  # how long another process may hold the file
PAUSE, PAUSE_MOST = 0.001, 0.05  # between looks whether it still does
THREADS = 4


# What is committed is moved from the log to the file now and then, by whoever commits, and that waits for
# the disk: usually on the durable ones' thread, and on the event loop only when none of those came for long.
# Each time a page is moved once, however many commits changed it: a batch of charges changes some 550.
CHECKPOINT, CHECKPOINT_LATE = 4000, 20_000  # pages

# What a connection keeps of the file in memory, at most. A batch of charges touches a page of an index
# for each user in it; where these do not fit, SQLite writes them out and reads them again within the batch.
CACHE_KIB = 16 * 1024


class Sqlite:
    """One file. Raises Unavailable as ``Database`` says."""

    def __init__(self, url: URL) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="database")
        self.engine = open_engine(url, "BEGIN IMMEDIATE")
        self._reading = open_engine(url, "BEGIN")
        self._group = Group(url, self._pool)
        self._inline = Inline(url, "BEGIN")

    async def write(self, work: Callable[[Connection], T], durable: bool) -> T:
        return await self._group.write(work, durable)

    async def read(self, work: Callable[[Connection], T]) -> T:
        busy = Busy()
        while True:
            try:
                with self._inline.transaction() as connection:
                    return work(connection)
            except Exception as error:
                if not is_trouble(error):
                    raise
                if not is_busy(error) or busy.is_over:
                    raise unavailable(error) from error
            await busy.pause()

    async def read_much(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, _run, self._reading, work)

    def run(self, work: Callable[[Connection], T]) -> T:
        return _run(self.engine, work)

    run_once = run  # nobody is away who may come back

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        self._group.close()
        self._inline.close()
        self.engine.dispose()
        self._reading.dispose()


def _run(engine: Engine, work: Callable[[Connection], T]) -> T:
    try:
        with engine.begin() as connection:
            return work(connection)
    except Exception as error:
        if is_trouble(error):
            raise unavailable(error) from error
        raise


class Busy:
    """The wait for another process that holds the file, from its first refusal on."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._pause = PAUSE

    @property
    def is_over(self) -> bool:
        return self._until is not None and asyncio.get_running_loop().time() >= self._until

    async def pause(self) -> None:
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + BUSY_SECONDS
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, PAUSE_MOST)


def is_busy(error: BaseException) -> bool:
    """Whether another process holds the file: nothing was done, and it may be free at the next look."""
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF == sqlite3.SQLITE_BUSY


def is_failing_disk(error: BaseException) -> bool:
    """Whether the disk did not take what was written: after a crash a commit may be found there, or not."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF == sqlite3.SQLITE_IOERR


def open_engine(
    url: URL,
    begin: Begin | None,
    *,
    synchronous: str = "FULL",
    checkpoint: int = CHECKPOINT,
    waits: float = BUSY_SECONDS,
) -> Engine:
    """An engine whose transactions start with ``begin``; None leaves starting and ending to the user.

    ``waits`` is for how many seconds a statement holds up its thread while another has the file.
    """
    engine = create_engine(
        url,
        poolclass=QueuePool,
        connect_args={"check_same_thread": False, "timeout": waits},
        hide_parameters=True,
        **({"isolation_level": "AUTOCOMMIT"} if begin is None else {}),
    )

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            f"wal_autocheckpoint={checkpoint}",
            f"cache_size=-{CACHE_KIB}",  # below zero it is in KiB, not in pages
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Connection) -> None:
        if begin is not None:
            connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


class Inline:
    """One connection that is used on the event loop, its transactions begun and ended by hand.

    A pool and SQLAlchemy's own transactions cost three times as much as a read by primary key.
    """

    def __init__(
        self, url: URL, begin: Begin, *, synchronous: str = "FULL", checkpoint: int = CHECKPOINT
    ) -> None:
        self._engine = open_engine(url, None, synchronous=synchronous, checkpoint=checkpoint, waits=0.0)
        self._begin = begin
        self._connection: Connection | None = None

    def begin(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        self._execute(self._begin)
        return self._connection

    def commit(self) -> None:
        self._execute("COMMIT")

    def rollback(self) -> None:
        """End the transaction, if the database did not do so itself; the next starts on a new connection."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._execute("ROLLBACK")
            self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        try:
            yield self.begin()
            self.commit()
        except BaseException:
            self.rollback()
            raise

    def close(self) -> None:
        self.rollback()
        self._engine.dispose()

    def _execute(self, statement: str) -> None:
        if self._connection is not None:
            cast("sqlite3.Connection", self._connection.connection.dbapi_connection).execute(statement)


@dataclass(slots=True)
class _Waiting:
    """Somebody's work, and where its result is waited for."""

    work: Callable[[Connection], Any]
    durable: bool
    future: asyncio.Future[Any]


class Group:
    """Whatever waits to be written, written and committed together."""

    def __init__(self, url: URL, pool: ThreadPoolExecutor) -> None:
        self._durable = Inline(url, "BEGIN IMMEDIATE")
        self._relaxed = Inline(url, "BEGIN IMMEDIATE", synchronous="NORMAL", checkpoint=CHECKPOINT_LATE)
        self._pool = pool
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None
        self._busy = Busy()

    async def write(self, work: Callable[[Connection], T], durable: bool) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Waiting(work, durable, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = loop.create_task(self._flush())
        return await future  # a caller that goes away takes back no work

    async def _flush(self) -> None:
        self._busy = Busy()
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
        inline = self._durable if durable else self._relaxed
        committing = False
        try:
            connection = await self._begin(inline)
            results.extend(one.work(connection) for one in group)
            committing = True
            if durable:
                await asyncio.get_running_loop().run_in_executor(self._pool, inline.commit)
            else:
                inline.commit()
        except Exception as error:  # handed to whoever asked, whatever it is
            inline.rollback()
            if len(group) > 1 and not (committing and is_failing_disk(error)):
                return False
            for one in group:
                if not one.future.done():
                    one.future.set_exception(_said(error, committing))
            return True
        for one, result in zip(group, results, strict=True):
            if not one.future.done():
                one.future.set_result(result)
        return True

    async def _begin(self, inline: Inline) -> Connection:
        while True:
            try:
                connection = inline.begin()
            except Exception as error:
                if not is_busy(error) or self._busy.is_over:
                    raise
                await self._busy.pause()
            else:
                self._busy = Busy()
                return connection

    def close(self) -> None:
        self._durable.close()
        self._relaxed.close()


def _said(error: Exception, committing: bool) -> Exception:
    """What whoever asked is told. Raised anew for each of them."""
    if not is_trouble(error):
        return error
    return unknown(error) if committing and is_failing_disk(error) else unavailable(error)
