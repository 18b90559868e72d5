"""Transactions, on both databases: what they promise whoever asks."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from tidemill.model.errors import Misconfigured
from tidemill.store.database import Database
from tidemill.store.schema import facts


def put(connection: Connection, name: str) -> str:
    connection.execute(insert(facts), {"name": name, "value": "x"})
    return name


def names(connection: Connection) -> set[str]:
    return set(connection.execute(select(facts.c.name)).scalars())


async def test_one_that_fails_takes_nothing_with_it(database: Database) -> None:
    async def attempt(number: int) -> str:
        return await database.write(lambda c: put(c, f"fact {number % 60}"))

    results = await asyncio.gather(*(attempt(number) for number in range(100)), return_exceptions=True)
    won = [result for result in results if isinstance(result, str)]
    lost = [result for result in results if isinstance(result, IntegrityError)]
    assert (len(won), len(lost)) == (60, 40)
    assert await database.read(names) == set(won)


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


async def test_an_error_shows_no_values(database: Database) -> None:
    """Values are init scripts, keys and hashes; errors end up in logs."""

    def twice(connection: Connection) -> None:
        for _ in range(2):
            connection.execute(insert(facts), {"name": "one", "value": "very-secret"})

    with pytest.raises(IntegrityError) as raised:
        await database.write(twice)
    assert "very-secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "garbage",
        "nosuch://someone:very-secret@host/x",
        "mysql+nosuch://someone:very-secret@h/x",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://someone:very-secret@host:port/x",
    ],
)
def test_a_url_that_leads_nowhere_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Misconfigured, match="database_url") as raised:
        Database(url)
    assert "secret" not in raised.value.message + raised.value.detail


async def test_a_caller_that_goes_away_takes_back_no_work_and_harms_nobody(database: Database) -> None:
    gone = asyncio.create_task(database.write(lambda c: put(c, "of one who left")))
    stays = asyncio.create_task(database.write(lambda c: put(c, "of one who stays")))
    await asyncio.sleep(0)  # both are waiting to be written
    gone.cancel()
    assert await stays == "of one who stays"
    with pytest.raises(asyncio.CancelledError):
        await gone
    async with asyncio.timeout(30):  # nobody is told when it is done
        while await database.read(names) != {"of one who left", "of one who stays"}:
            await asyncio.sleep(0.01)
