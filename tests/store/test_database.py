"""The group-committing writer, and the migrations."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import IntegrityError

from tidemill.model.errors import Misconfigured, Unavailable
from tidemill.store.database import Database
from tidemill.store.migrate import migrate
from tidemill.store.schema import facts, metadata


def put(connection: Connection, name: str) -> str:
    connection.execute(insert(facts), {"name": name, "value": "x"})
    return name


async def test_one_that_fails_takes_nothing_with_it(database: Database) -> None:
    async def attempt(number: int) -> str:
        return await database.write(lambda c: put(c, f"fact {number % 60}"))

    results = await asyncio.gather(*(attempt(number) for number in range(100)), return_exceptions=True)
    won = [result for result in results if isinstance(result, str)]
    lost = [result for result in results if isinstance(result, IntegrityError)]
    assert (len(won), len(lost)) == (60, 40)
    kept = await database.read(lambda c: set(c.execute(select(facts.c.name)).scalars()))
    assert kept == set(won)


async def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def half(connection: Connection) -> None:
        put(connection, "half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await database.write(half)
    assert await database.read(lambda c: c.execute(select(facts)).first()) is None


async def test_a_reader_sees_what_was_written_before(database: Database) -> None:
    for number in range(20):
        await database.write(lambda c, n=number: put(c, f"fact {n}"))
        assert len(await database.read(lambda c: c.execute(select(facts)).all())) == number + 1


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


async def test_an_error_shows_no_values(database: Database) -> None:
    """Values are init scripts, keys and hashes; errors end up in logs."""

    def twice(connection: Connection) -> None:
        for _ in range(2):
            connection.execute(insert(facts), {"name": "one", "value": "very-secret"})

    with pytest.raises(IntegrityError) as raised:
        await database.write(twice)
    assert "very-secret" not in str(raised.value)


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


@pytest.mark.parametrize("url", ["garbage", "nosuch://someone:very-secret@host/x", "mysql+nosuch://h/x"])
def test_a_url_that_leads_nowhere_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Misconfigured, match="database_url") as raised:
        Database(url)
    assert "secret" not in raised.value.message + raised.value.detail


def test_the_migrations_give_the_schema_that_the_code_expects(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert database.run(differences) == []


def test_migrating_again_changes_nothing_and_a_newer_database_is_refused(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'again.db'}")
    try:
        migrate(database)
        migrate(database)
        database.run(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
        with pytest.raises(Misconfigured, match="newer version"):
            migrate(database)
    finally:
        database.close()


async def test_a_caller_that_goes_away_takes_back_no_work_and_harms_nobody(database: Database) -> None:
    gone = asyncio.create_task(database.write(lambda c: put(c, "of one who left")))
    stays = asyncio.create_task(database.write(lambda c: put(c, "of one who stays")))
    await asyncio.sleep(0)  # both are waiting to be written
    gone.cancel()
    assert await stays == "of one who stays"
    with pytest.raises(asyncio.CancelledError):
        await gone
    kept = await database.read(lambda c: set(c.execute(select(facts.c.name)).scalars()))
    assert kept == {"of one who left", "of one who stays"}
