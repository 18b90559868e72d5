"""PostgreSQL when it is slow, gone, in the way or half there: what is tried again, and what is said."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import psycopg
import pytest
from sqlalchemy import Connection, create_engine, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InternalError
from tests.postgres import PostgresServer, postgres_server
from tests.store.line import Line

from tidemill.model.errors import Misconfigured, Unavailable
from tidemill.store import postgres as module
from tidemill.store.database import Database
from tidemill.store.migrate import migrate
from tidemill.store.postgres import PATIENCE
from tidemill.store.schema import facts
from tidemill.store.trouble import refusal


def put(connection: Connection, name: str, value: str = "x") -> str:
    connection.execute(insert(facts), {"name": name, "value": value})
    return name


def names(connection: Connection) -> set[str]:
    return set(connection.execute(select(facts.c.name)).scalars())


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    opened = Database(postgres_url)
    yield opened
    opened.close()


@pytest.fixture
def line(postgres_url: str) -> Iterator[Line]:
    with Line(postgres_url) as made:
        yield made


@pytest.fixture
async def far(line: Line) -> AsyncIterator[Database]:
    """The same database, at the end of a line."""
    opened = Database(line.url)
    yield opened
    line.revive()
    opened.close()


async def test_how_a_transaction_runs_does_not_depend_on_the_servers_defaults(
    postgres: PostgresServer, postgres_url: str
) -> None:
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for default in ("isolation = 'serializable'", "read_only = on"):
            connection.execute(text(f"ALTER ROLE tidemill SET default_transaction_{default}"))
    database = Database(postgres_url.replace("postgresql://", "postgres://"))

    def manner(connection: Connection) -> tuple[str, ...]:
        shown = ("transaction_isolation", "transaction_read_only", "synchronous_commit", "statement_timeout")
        return tuple(connection.execute(text(f"SHOW {name}")).scalar_one() for name in shown)

    try:
        assert await database.write(manner) == ("read committed", "off", "on", "10s")
        assert await database.write(manner, durable=False) == ("read committed", "off", "off", "10s")
        assert await database.read(manner) == ("repeatable read", "on", "on", "10s")
        assert await database.read_much(manner) == ("repeatable read", "on", "on", "1min")
        assert database.run(manner) == ("read committed", "off", "on", "10s")
    finally:
        database.close()
        with engine.connect() as connection:
            connection.execute(text("ALTER ROLE tidemill RESET ALL"))
        engine.dispose()


async def test_what_reads_sees_one_moment_and_cannot_write(database: Database) -> None:
    looked, wrote = threading.Event(), threading.Event()

    def twice(connection: Connection) -> tuple[set[str], set[str]]:
        before = names(connection)
        looked.set()
        assert wrote.wait(30)
        return before, names(connection)

    looking = asyncio.create_task(database.read(twice))
    await asyncio.to_thread(looked.wait, 30)
    await database.write(lambda c: put(c, "new"))
    wrote.set()
    assert await looking == (set(), set())
    assert await database.read(names) == {"new"}
    with pytest.raises(InternalError, match="read-only"):  # a defect of ours, and loud
        await database.read(lambda c: put(c, "other"))


async def test_a_deadlock_is_nobodys_error(database: Database) -> None:
    for name in ("one", "two"):
        await database.write(lambda c, n=name: put(c, n, "0"))
    meeting = threading.Barrier(2)
    tries: list[str] = []

    def both(connection: Connection, first: str, second: str) -> None:
        tries.append(first)
        for name in (first, second):
            connection.execute(update(facts).where(facts.c.name == name).values(value=facts.c.value + "1"))
            if name == first and tries.count(first) == 1:
                meeting.wait(20)  # each has its first row, and wants the other's

    async with asyncio.timeout(60):
        await asyncio.gather(
            database.write(lambda c: both(c, "one", "two")), database.write(lambda c: both(c, "two", "one"))
        )
    assert len(tries) == 3
    assert await database.read(lambda c: set(c.execute(select(facts.c.value)).scalars())) == {"011"}


async def test_a_lock_that_somebody_keeps_stops_no_reader_and_is_told_after_a_while(
    database: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody updates a row by hand and goes to lunch."""
    monkeypatch.setattr(module, "PATIENCE", 2.0)
    await database.write(lambda c: put(c, "row"))
    change = update(facts).where(facts.c.name == "row").values(value="y")
    engine = create_engine(postgres_url)
    with engine.connect() as somebody:
        somebody.execute(change)
        began = time.monotonic()
        stuck = [asyncio.create_task(database.write(lambda c: c.execute(change))) for _ in range(12)]
        for _ in range(5):
            assert await database.read(names) == {"row"}
        assert not any(each.done() for each in stuck), "readers waited for them"
        for error in await asyncio.gather(*stuck, return_exceptions=True):
            assert isinstance(error, Unavailable)
            assert "nothing was changed" in error.message
        assert time.monotonic() - began < 20, "one waits after the other"
        somebody.rollback()
    engine.dispose()
    await database.write(lambda c: c.execute(change))


async def test_a_connection_that_breaks_before_the_commit_is_another_try(far: Database, line: Line) -> None:
    runs = 0

    def breaking(connection: Connection) -> str:
        nonlocal runs
        runs += 1
        name = put(connection, "mine")
        if runs == 1:
            line.cut()
        connection.execute(text("SELECT 1"))
        return name

    assert await far.write(breaking) == "mine"
    assert runs == 2
    assert await far.read(names) == {"mine"}


async def test_connections_that_broke_while_nobody_used_them_are_not_noticed(
    far: Database, line: Line
) -> None:
    for _ in range(3):
        await asyncio.gather(*(far.read(names) for _ in range(8)), far.write(lambda c: None))
        line.cut()
    before = line.connections
    assert await far.read(names) == set()
    assert line.connections > before


@pytest.mark.parametrize("done", [True, False])
async def test_a_commit_without_an_answer_is_said_to_be_unknown_and_never_made_twice(
    far: Database, line: Line, done: bool
) -> None:
    runs = 0

    def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        put(connection, f"run {runs}")

    if done:
        line.commits_to_lose = 1
    else:
        line.commits_to_stop = 1
    with pytest.raises(Unavailable, match="not known") as raised:
        await far.write(work)
    assert raised.value.code == "outcomeUnknown"
    async with asyncio.timeout(60):
        while done and not await far.read(names):  # the server may be at it still
            await asyncio.sleep(0.01)
    assert (runs, await far.read(names)) == (1, {"run 1"} if done else set())


async def test_a_server_that_froze_is_not_waited_for(
    far: Database, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 1.0)
    await far.write(lambda c: put(c, "before"))
    line.go_dead()
    began = time.monotonic()
    calls = [far.write(lambda c, n=n: put(c, f"meanwhile {n}")) for n in range(20)]
    calls += [far.read(lambda c: "") for _ in range(20)]
    said = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - began < 20
    assert {type(error) for error in said} == {Unavailable}
    line.revive()
    monkeypatch.undo()
    assert await far.write(lambda c: put(c, "after")) == "after"
    assert await far.read(names) >= {"before", "after"}


async def test_closing_does_not_wait_for_a_server_that_froze(postgres_url: str) -> None:
    with Line(postgres_url) as line:
        database = Database(line.url)
        await database.write(lambda c: put(c, "before"))
        line.go_dead()
        call = asyncio.create_task(database.write(lambda c: put(c, "meanwhile")))
        await asyncio.sleep(0)
        began = time.monotonic()
        database.close()
        assert time.monotonic() - began < 10
        with pytest.raises(Unavailable):
            await call


def test_a_server_that_is_killed_and_comes_back_loses_nothing_that_was_answered() -> None:
    """SIGQUIT ends PostgreSQL as a crash does, in the middle of writers that go on asking."""

    async def story(server: PostgresServer) -> None:
        database = Database(server.new_database())
        done: list[str] = []
        unsure: list[str] = []
        over = asyncio.Event()

        async def writer(number: int) -> None:
            count = 0
            while not over.is_set():
                name = f"{number}/{count}"
                count += 1
                try:
                    done.append(await database.write(lambda c, n=name: put(c, n)))
                except Unavailable as error:
                    if error.code == "outcomeUnknown":
                        unsure.append(name)

        writers = [asyncio.create_task(writer(number)) for number in range(6)]
        try:
            for _ in range(3):
                before = len(done)
                async with asyncio.timeout(60):
                    while len(done) < before + 30:
                        await asyncio.sleep(0.01)
                await asyncio.to_thread(server.stop, signal.SIGQUIT)
                await asyncio.to_thread(server.start)
            over.set()
            await asyncio.gather(*writers)
            kept = await database.read(names)
        finally:
            database.close()
        assert len(done) == len(set(done))
        assert set(done) <= kept
        assert kept <= {*done, *unsure}

    with postgres_server(durable=True) as server:
        asyncio.run(story(server))


async def test_no_server_at_all_is_said(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    with Line(postgres_url) as line:
        url = line.url
    database = Database(url)
    try:
        with pytest.raises(Unavailable) as raised:
            await database.write(lambda c: put(c, "x"))
        assert "nothing was changed" in raised.value.message
        assert "connection" in raised.value.detail
    finally:
        database.close()


async def test_an_error_shows_no_row(database: Database) -> None:
    """PostgreSQL adds the whole row to its words about a broken rule."""
    statements = (
        "INSERT INTO facts (name, value) VALUES ('very-' || 'secret', NULL)",
        "INSERT INTO nodes SELECT 'very-' || 'secret', 'r', 'n', 1, 1, 1, -1, 0, true",
        "INSERT INTO users SELECT repeat('very-' || 'secret', 99), 'u', 'h', true, 0, 0",
        "INSERT INTO api_keys SELECT 'k', 'very-' || 'secret', 'n', 'h', 'h', 's', 0, null",
    )
    for statement in statements:
        with pytest.raises(DBAPIError) as raised:
            await database.write(lambda c, s=statement: c.execute(text(s)))
        assert "very-secret" not in str(raised.value) + repr(raised.value.orig), statement


async def test_an_error_that_was_passed_over_is_not_taken_for_success(database: Database) -> None:
    def careless(connection: Connection) -> None:
        put(connection, "one")
        with suppress(DBAPIError):
            put(connection, "one")

    with pytest.raises(RuntimeError, match="passed over"):
        await database.write(careless)
    assert await database.read(names) == set()


async def test_a_plan_from_before_another_servers_migration_is_made_anew(database: Database) -> None:
    for _ in range(10):  # until the driver has prepared it, on every connection
        await asyncio.gather(*(database.read(names) for _ in range(8)))
    await database.write(lambda c: c.execute(text("ALTER TABLE facts ALTER COLUMN name TYPE text")))
    for _ in range(5):
        assert await asyncio.gather(*(database.read(names) for _ in range(8))) == [set()] * 8


async def test_no_more_connections_than_were_asked_for(postgres_url: str) -> None:
    with Line(postgres_url) as line:
        database = Database(line.url, connections=4)
        await asyncio.gather(*(database.read(names) for _ in range(30)))
        await asyncio.gather(*(database.write(lambda c, n=n: put(c, f"{n}")) for n in range(30)))
        database.close()
        assert line.connections <= 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"database": "nowhere"}, r"no database nowhere on .*createdb nowhere"),
        ({"username": "stranger"}, r"does not let the user stranger in.*createuser stranger"),
    ],
)
def test_what_waiting_does_not_mend_is_said_at_once(
    postgres_url: str, changes: dict[str, str], says: str
) -> None:
    url = make_url(postgres_url).set(password="a secret", **changes)  # type: ignore[arg-type]
    database = Database(url.render_as_string(hide_password=False))
    began = time.monotonic()
    try:
        with pytest.raises(Misconfigured, match=says) as told:
            migrate(database)
    finally:
        database.close()
    assert time.monotonic() - began < PATIENCE / 2
    assert "a secret" not in told.value.message + told.value.detail


def test_a_user_without_rights_is_told_so(postgres_url: str) -> None:
    owner = Database(postgres_url)
    owner.run(lambda c: c.execute(text("DROP ROLE IF EXISTS guest")))
    owner.run(lambda c: c.execute(text("CREATE ROLE guest LOGIN")))
    guest = Database(make_url(postgres_url).set(username="guest").render_as_string(hide_password=False))
    try:
        with pytest.raises(Misconfigured, match=r"user guest has no rights.*OWNER TO guest"):
            guest.run(lambda c: c.execute(text("SELECT count(*) FROM users")))
    finally:
        guest.close()
        owner.run(lambda c: c.execute(text("DROP ROLE guest")))
        owner.close()


def test_a_password_that_is_refused_is_not_shown_and_what_passes_is_waited_for() -> None:
    url = make_url("postgresql://keeper:hunter2@db.example.org/tidemill")
    refused = refusal(
        psycopg.OperationalError('FATAL:  password authentication failed for user "keeper"'), url
    )
    assert refused is not None
    assert "password of the user keeper" in refused.message
    assert "hunter2" not in refused.message + refused.detail
    for words in (
        "the database system is starting up",
        "Connection refused",
        "sorry, too many clients already",
    ):
        assert refusal(psycopg.OperationalError(f"connection failed: {words}"), url) is None
