"""SQLite on the event loop: transactions by hand, and writes that are committed together."""

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
from sqlalchemy.pool import QueuePool

from tidemill.store.trouble import is_trouble, unavailable

T = TypeVar("T")
Begin = Literal["BEGIN", "BEGIN IMMEDIATE"]

GROUP_MOST = 32
BUSY_MILLISECONDS = 5000  # how long another process may hold the file


def open_engine(url: URL, begin: Begin | None, *, synchronous: str = "FULL") -> Engine:
    """An engine whose transactions start with ``begin``; None leaves starting and ending to the user."""
    engine = create_engine(
        url,
        poolclass=QueuePool,
        connect_args={"check_same_thread": False},
        hide_parameters=True,
        **({"isolation_level": "AUTOCOMMIT"} if begin is None else {}),
    )

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_MILLISECONDS}",
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

    def __init__(self, url: URL, begin: Begin, *, synchronous: str = "FULL") -> None:
        self._engine = open_engine(url, None, synchronous=synchronous)
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
        self._relaxed = Inline(url, "BEGIN IMMEDIATE", synchronous="NORMAL")  # waits for no disk
        self._pool = pool
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    async def write(self, work: Callable[[Connection], T], durable: bool) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Waiting(work, durable, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = loop.create_task(self._flush())
        return await future  # a caller that goes away takes back no work

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
        inline = self._durable if durable else self._relaxed
        try:
            connection = inline.begin()
            results.extend(one.work(connection) for one in group)
            if durable:
                await asyncio.get_running_loop().run_in_executor(self._pool, inline.commit)
            else:
                inline.commit()
        except Exception as error:  # handed to whoever asked, whatever it is
            inline.rollback()
            if len(group) > 1:
                return False
            if not group[0].future.done():
                group[0].future.set_exception(unavailable(error) if is_trouble(error) else error)
            return True
        for one, result in zip(group, results, strict=True):
            if not one.future.done():
                one.future.set_result(result)
        return True

    def close(self) -> None:
        self._durable.close()
        self._relaxed.close()
