"""The real SQL on the real schema, in memory, in virtual time: slow, failing, losing answers.

There is one database in a process. A simulation is one transaction of it that is never committed: taking it
back costs less than loading a template, which SQLite would prepare every statement anew for. What is
``durable`` ends a savepoint, what is not stays in an open one and is lost when the power is.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

from tests.simulation.chance import drawn_from
from tidemill.model.errors import Unavailable
from tidemill.store.database import Database
from tidemill.store.migrate import migrate
from tidemill.store.trouble import is_trouble, unavailable

T = TypeVar("T")
Work = Callable[[Connection], T]
Call = Literal["write", "read"]


def template(fill: Callable[[Database], None]) -> bytes:
    """A database at the newest schema, with what ``fill`` puts into it, as the bytes of a file."""
    with tempfile.TemporaryDirectory() as folder, drawn_from(0):
        path = Path(folder) / "template.db"
        database = Database(f"sqlite:///{path}")
        migrate(database)
        fill(database)
        database.close()
        file = sqlite3.connect(path)
        file.execute("PRAGMA journal_mode=DELETE")  # what lies in memory has no second file
        made = file.serialize()
        file.close()
    return made


STATEMENTS = 1000  # of the product's kept prepared: there are some 300
_HOLDERS = "SELECT instance_id FROM reservations"


class Shelf:
    """What every server of a simulation shares: the database itself."""

    def __init__(self) -> None:
        self._raw = sqlite3.connect(
            ":memory:", check_same_thread=False, isolation_level=None, cached_statements=STATEMENTS
        )
        self._loaded: bytes | None = None
        self.written = 0  # goes up whenever anything is otherwise than it was
        self._lasting = 0  # the count of changes at the last one that is durable
        self._given_back: Callable[[str], None] = print
        self._holders: set[str] = set()
        engine = create_engine(
            "sqlite://", creator=lambda: self._raw, poolclass=StaticPool, isolation_level="AUTOCOMMIT"
        )
        self._connection = engine.connect()

    def load(self, made: bytes, given_back: Callable[[str], None]) -> None:
        """Begin anew with what ``made`` holds; ``given_back`` is told whose share of a node is given back."""
        raw = self._raw
        if self._loaded is not None:
            raw.execute("ROLLBACK")
        if self._loaded != made:
            template = sqlite3.connect(":memory:")
            template.deserialize(made)
            template.backup(raw)  # deserialize and json_each: SQLite 3.40 ends with SIGSEGV
            template.close()
            raw.execute("PRAGMA foreign_keys=ON")
            self._loaded = made
        raw.execute("BEGIN")
        raw.execute("SAVEPOINT lasting")
        self._lasting = raw.total_changes
        self._given_back = given_back
        self._holders = set()

    def write(self, work: Work[T], *, durable: bool) -> T:
        raw = self._raw
        changes = raw.total_changes
        raw.execute("SAVEPOINT one")
        try:
            result = work(self._connection)
        except BaseException:
            raw.execute("ROLLBACK TO one")
            raw.execute("RELEASE one")
            raise
        raw.execute("RELEASE one")
        if durable and raw.total_changes != self._lasting:
            raw.execute("RELEASE lasting")
            raw.execute("SAVEPOINT lasting")
            self._lasting = raw.total_changes
        if raw.total_changes != changes:
            self.written += 1
            before, self._holders = self._holders, {row[0] for row in raw.execute(_HOLDERS)}
            for instance_id in sorted(before - self._holders):
                self._given_back(instance_id)
        return result

    def read(self, work: Work[T]) -> T:
        return work(self._connection)

    def instances(self) -> list[str]:
        """Every instance there ever was, the newest last."""
        return [row[0] for row in self._raw.execute("SELECT id FROM instances ORDER BY rowid")]

    def is_released(self, instance_id: str) -> bool:
        """Whether there is nothing of it any more, as far as the database knows."""
        rows = self._raw.execute("SELECT state FROM instances WHERE id = ?", (instance_id,)).fetchall()
        return rows == [("Released",)]

    def lose_power(self) -> None:
        """What was not made durable is gone."""
        self._raw.execute("ROLLBACK TO lasting")
        self.written += 1

    run = read  # as ``Database.run``, for the checks, which only look and take no time


@cache
def shelf() -> Shelf:
    """The one of this process: SQLAlchemy keeps its compiled statements by engine."""
    return Shelf()


@dataclass(frozen=True, slots=True)
class Manner:
    """How one call goes: the waits before and after the work, and whether it or its answer is lost."""

    before: float
    after: float
    fails: bool = False
    loses_answer: bool = False


def no_answer() -> Unavailable:
    return unavailable(sqlite3.OperationalError("simulated"))


class SimulatedDatabase(Database):
    """One server's way to the database.

    As with the real one, a caller that goes away takes back no work: only a crash does.
    """

    def __init__(
        self,
        shared: Shelf,
        manner: Callable[[Call], Manner],
        committed: Callable[[], None] | None = None,
    ) -> None:
        self._shelf = shared
        self._manner = manner
        self._committed = committed  # told of each transaction at the instant it is done
        self.is_sqlite = True

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        def run() -> T:
            result = self._shelf.write(work, durable=durable)
            if self._committed is not None:
                self._committed()
            return result

        return await self._call("write", run)

    async def read(self, work: Work[T]) -> T:
        return await self._call("read", lambda: self._shelf.read(work))

    async def read_much(self, work: Work[T]) -> T:
        return await self._call("read", lambda: self._shelf.read(work))

    def run(self, work: Work[T]) -> T:
        raise AssertionError("nothing that runs in the event loop may hold it up")

    def close(self) -> None:
        pass

    def _call(self, call: Call, work: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        manner = self._manner(call)
        loop.call_later(manner.before, self._do, manner, work, future)
        return future

    def _do(self, manner: Manner, work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        result: Any = None
        error: Exception | None = None
        try:
            if manner.fails:
                raise no_answer()
            result = work()
            if manner.loses_answer:
                raise no_answer()
        except Exception as raised:  # handed to whoever asked
            error = unavailable(raised) if is_trouble(raised) else raised
        asyncio.get_running_loop().call_later(manner.after, _answer, future, result, error)


def _answer(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
