"""SQLite's own bad days: a full disk, a damaged file, another process that holds it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text

from tidemill.model.errors import Unavailable
from tidemill.store import sqlite as module
from tidemill.store.database import Database
from tidemill.store.migrate import migrate
from tidemill.store.schema import facts


def put(connection: Connection, name: str) -> str:
    connection.execute(insert(facts), {"name": name, "value": "x"})
    return name


def names(connection: Connection) -> set[str]:
    return set(connection.execute(select(facts.c.name)).scalars())


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    opened = Database(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def another(database: Database) -> Iterator[sqlite3.Connection]:
    """Another process's way into the file."""
    opened = sqlite3.connect(str(database.url.database), isolation_level=None)
    yield opened
    opened.close()


@pytest.fixture
async def gaps() -> AsyncIterator[list[float]]:
    """How long nothing else could run on the event loop, each time, in seconds."""
    found: list[float] = []

    async def beat() -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(0)
            now = time.monotonic()
            found.append(now - before)
            before = now

    beating = asyncio.create_task(beat())
    yield found
    beating.cancel()


async def test_a_full_disk_is_said_and_nothing_is_lost(database: Database) -> None:
    """SQLite's own page limit stands for the disk's end: the same error from the same place."""
    await database.write(lambda c: put(c, "before"))
    pages = await database.write(lambda c: c.execute(text("PRAGMA page_count")).scalar_one())
    await database.write(lambda c: c.execute(text(f"PRAGMA max_page_count={pages + 2}")).scalar_one())

    def large(connection: Connection) -> None:
        connection.execute(insert(facts), {"name": "large", "value": "x" * 100_000})

    with pytest.raises(Unavailable, match="nothing was changed"):
        await database.write(large)
    await database.write(lambda c: c.execute(text("PRAGMA max_page_count=1000000")).scalar_one())
    await database.write(lambda c: put(c, "after"))
    assert await database.read(lambda c: set(c.execute(select(facts.c.name)).scalars())) == {
        "before",
        "after",
    }


async def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    file = tmp_path / "damaged.db"
    file.write_bytes(b"this was a database once " * 400)
    database = Database(f"sqlite:///{file}")
    try:
        with pytest.raises(Unavailable) as raised:
            migrate(database)
        assert "not a database" in raised.value.detail
        with pytest.raises(Unavailable):
            await database.read(lambda c: c.execute(select(facts)).all())
        with pytest.raises(Unavailable):
            await database.write(lambda c: put(c, "one"))
    finally:
        database.close()


async def test_while_another_process_holds_the_file_everything_else_goes_on(
    database: Database, another: sqlite3.Connection, gaps: list[float]
) -> None:
    await database.write(lambda c: put(c, "before"))
    another.execute("BEGIN IMMEDIATE")
    waiting = [
        asyncio.create_task(database.write(lambda c, n=n: put(c, f"meanwhile {n}"), durable=n % 2 == 0))
        for n in range(5)
    ]
    for _ in range(20):
        assert await database.read(names) == {"before"}
        await asyncio.sleep(0.02)
    assert not any(task.done() for task in waiting)
    another.execute("COMMIT")
    await asyncio.gather(*waiting)
    assert await database.read(names) == {"before", *(f"meanwhile {n}" for n in range(5))}
    assert max(gaps) < 3, "the event loop waited"


async def test_a_file_that_is_held_for_too_long_is_said_at_once_to_whoever_comes_later(
    database: Database, another: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, gaps: list[float]
) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.5)
    another.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    waiting = [asyncio.create_task(database.write(lambda c, n=n: put(c, f"early {n}"))) for n in range(50)]
    for said in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(said, Unavailable)
        assert "nothing was changed" in said.message
        assert "locked" in said.detail
    assert 0.5 <= time.monotonic() - began < 15, "one waits after the other"
    later = asyncio.create_task(database.write(lambda c: put(c, "later")))
    await asyncio.sleep(0.1)
    assert not later.done(), "it waits for its own while"
    another.execute("COMMIT")
    assert await later == "later"
    assert await database.read(names) == {"later"}
    assert max(gaps) < 3, "the event loop waited"


async def test_reads_wait_too_where_the_whole_file_is_held(
    database: Database, another: sqlite3.Connection, gaps: list[float]
) -> None:
    """As while a tool copies or repairs it."""
    await database.write(lambda c: put(c, "before"))
    database.close()
    another.execute("PRAGMA locking_mode = EXCLUSIVE")
    another.execute("BEGIN EXCLUSIVE")
    anew = Database(database.url.render_as_string())
    try:
        reading = asyncio.create_task(anew.read(names))
        await asyncio.sleep(0.2)
        assert not reading.done()
        another.close()
        assert await reading == {"before"}
    finally:
        anew.close()
    assert max(gaps) < 3, "the event loop waited"


async def test_a_commit_that_the_disk_did_not_take_is_said_to_be_unknown(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may lie in the file all the same, and count after a crash."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC

    def fail(_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(module.Inline, "commit", fail)
        both = [asyncio.create_task(database.write(lambda c, n=n: put(c, f"{n}"))) for n in range(2)]
        for said in await asyncio.gather(*both, return_exceptions=True):
            assert isinstance(said, Unavailable)
            assert said.code == "outcomeUnknown"
    assert await database.write(lambda c: put(c, "after")) == "after"
