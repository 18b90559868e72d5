"""The database lost at the commit itself, on SQLite, where a commit has many callers' work in it.

Nobody is told of success for what is not there. Nobody is told that nothing was changed when it was. Who
is told that it is not known can ask again, and has one instance.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
from sqlalchemy import Connection, insert, select, text
from tests.failures.house import House
from tests.invariants import in_database
from tests.stock import HandClock, Stocked, stock

from tidemill.actions.launch import launch
from tidemill.model.errors import OutOfStock, TidemillError, Unavailable
from tidemill.settings import Settings
from tidemill.store import sqlite as module
from tidemill.store.database import Database
from tidemill.store.schema import facts, launch_keys, node_ports

CALLERS = 40
SEEDS = 8
Ending = Literal["fails", "unknown and not done", "unknown and done", "works"]
ENDINGS: tuple[Ending, ...] = ("fails", "unknown and not done", "unknown and done", "works")


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    opened = Database(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def stocked(database: Database, clock: HandClock) -> Stocked:
    return stock(database, clock)


def _error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("of this test")
    error.sqlite_errorcode = code
    return error


def failing(draw: Callable[[], Ending], drawn: Counter[Ending]) -> Callable[[module.Inline], None]:
    """A commit that ends as is drawn: as a full disk ends it, as a failing one does, or well."""
    real = module.Inline.commit

    def commit(inline: module.Inline) -> None:
        ending = draw()
        drawn[ending] += 1
        if ending == "fails":
            raise _error(sqlite3.SQLITE_FULL)
        if ending == "unknown and not done":
            raise _error(sqlite3.SQLITE_IOERR_FSYNC)
        real(inline)
        if ending == "unknown and done":
            raise _error(sqlite3.SQLITE_IOERR_FSYNC)

    return commit


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_what_a_caller_is_told_of_a_launch_is_what_was_done(
    stocked: Stocked, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(stocked, Settings())
    context, caller = house.boot().context, house.caller()
    await house.process.gone()
    chance, drawn = random.Random(seed), Counter[Ending]()
    first = chance.sample(ENDINGS, len(ENDINGS))  # each of them at least once

    def draw() -> Ending:
        return first.pop() if first else chance.choice(ENDINGS)

    async def ask(number: int) -> str:
        return await launch(context, caller, stocked.order(), key=str(number), body=b"")

    with monkeypatch.context() as patched:
        patched.setattr(module.Inline, "commit", failing(draw, drawn))
        said = await asyncio.gather(*(ask(number) for number in range(CALLERS)), return_exceptions=True)
    there = _launched(stocked)
    told = {_told(answer, there.get(number)) for number, answer in enumerate(said)}
    assert in_database(stocked.database, now=house.clock.now(), settings=house.settings) == []
    assert drawn.keys() == set(ENDINGS)
    assert "outcomeUnknown" in told
    # Whoever has no id asks again, and has the one that is there, if one is.
    for number, answer in enumerate(said):
        if isinstance(answer, Unavailable):
            try:
                id = await ask(number)
            except OutOfStock:
                assert number not in there
            else:
                assert id == there.get(number, _launched(stocked)[number])


def _launched(stocked: Stocked) -> dict[int, str]:
    """Which callers have a key, and the instances of theirs."""
    rows = stocked.database.run(lambda c: c.execute(select(launch_keys)).all())
    return {int(row.key): row.instance_id for row in rows}


def _told(answer: str | BaseException, there: str | None) -> str:
    """What a caller was told, in a word; it must be so."""
    if isinstance(answer, str):
        assert answer == there
        return "launched"
    assert isinstance(answer, TidemillError), answer
    if answer.code != "outcomeUnknown":
        assert there is None
        assert "nothing was changed" in answer.message or isinstance(answer, OutOfStock)
    return answer.code


async def test_one_that_the_commit_itself_refuses_takes_nobody_with_it(stocked: Stocked) -> None:
    """A constraint that is looked at by the commit: it is the group's commit that fails, for real."""
    house = House(stocked, Settings())
    context = house.boot().context

    def guilty(connection: Connection) -> None:
        connection.execute(text("PRAGMA defer_foreign_keys=ON"))
        connection.execute(
            insert(node_ports), {"node_id": "x", "node_port": 1, "instance_id": "nobody", "port": 1}
        )

    before = asyncio.create_task(stocked.database.write(lambda c: _put(c, "before")))
    wrong = asyncio.create_task(stocked.database.write(guilty))
    after = [
        asyncio.create_task(launch(context, house.caller(), stocked.order(), key=f"{n}", body=b""))
        for n in range(3)
    ]
    with pytest.raises(sqlite3.IntegrityError):
        await wrong
    assert await before == "before"
    ids = await asyncio.gather(*after)
    await house.process.gone()
    assert stocked.database.run(lambda c: set(c.execute(select(facts.c.name)).scalars())) == {"before"}
    found = stocked.database.run(lambda c: set(c.execute(select(launch_keys.c.instance_id)).scalars()))
    assert found == set(ids)
    assert in_database(stocked.database, now=house.clock.now(), settings=house.settings) == []


def _put(connection: Connection, name: str) -> str:
    connection.execute(insert(facts), {"name": name, "value": ""})
    return name
