"""Two servers whose connections break at any moment, also between a commit and its answer.

Whoever was told that it is done has it, once; who was told that nothing was changed may ask again; who was
told that it is not known asks with the same key. Then everything adds up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest
from tests.invariants import in_database
from tests.stock import REGION, HandClock, Stocked
from tests.store.line import Line

from tidemill.actions.ask import ask
from tidemill.actions.context import Context
from tidemill.actions.launch import launch
from tidemill.actions.news import News
from tidemill.model.account import Caller
from tidemill.model.errors import NotFound, OutOfStock, Unavailable
from tidemill.model.lifecycle import Event, State
from tidemill.model.offer import offer_id
from tidemill.settings import Settings
from tidemill.store import fleet, nodes
from tidemill.store.database import Database
from tidemill.store.nodes import FoundNode
from tidemill.wake import Wake

T = TypeVar("T")
CLIENTS, ROUNDS = 8, 8


@pytest.fixture
def database_url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
async def lines(postgres_url: str) -> AsyncIterator[list[Line]]:
    with Line(postgres_url) as one, Line(postgres_url) as other:
        yield [one, other]


async def tear(lines: list[Line], chance: random.Random) -> None:
    """Again and again, and each time not before some transactions came to their commit.

    Where others have the machine they take longer, and hardly one would come through by the clock.
    """
    while True:
        reached = sum(line.commits for line in lines) + chance.randrange(1, 5)
        await asyncio.sleep(chance.uniform(0.002, 0.03))
        while sum(line.commits for line in lines) < reached:
            await asyncio.sleep(0.002)
        line = chance.choice(lines)
        match chance.randrange(3):
            case 0:
                line.cut()
            case 1:
                line.commits_to_lose = 1
            case _:
                line.commits_to_stop = 1


async def until_told(servers: list[Context], call: Callable[[Context], Awaitable[T]]) -> T | None:
    """Ask one server after the other until one knows what became of it; None for "there is no such"."""
    for number in range(1000):
        try:
            return await call(servers[number % len(servers)])
        except Unavailable:
            await asyncio.sleep(0.01)
        except NotFound:  # terminated: by an earlier call that nobody answered
            return None
    raise AssertionError("never told")


async def test_every_key_is_one_instance_and_everything_adds_up(
    stocked: Stocked, lines: list[Line], clock: HandClock
) -> None:
    chance = random.Random(7)
    machines = [FoundNode(offer_id("node", f"m{n}"), f"m{n}", 24_000, 2**17, 100, ()) for n in range(4)]
    stocked.database.run(lambda c: nodes.register(c, REGION.id, machines))
    databases = [Database(line.url, connections=8) for line in lines]
    servers = [
        Context(
            database=database,
            clock=clock,
            wake=Wake(),
            settings=Settings(),
            tokens=None,  # type: ignore[arg-type] - nobody logs in
            drivers={},
            news=News(database),
        )
        for database in databases
    ]
    alice = Caller(stocked.alice)
    launched: dict[str, str] = {}
    ended: set[str] = set()

    async def client(number: int) -> None:
        for round in range(ROUNDS):
            key = f"{number}/{round}"
            order = stocked.order(name=key)
            try:
                id = await until_told(
                    servers, lambda s, k=key, o=order: launch(s, alice, o, key=k, body=k.encode())
                )
            except OutOfStock:
                continue
            assert id is not None
            launched[key] = id
            if chance.random() < 0.5:
                await until_told(servers, lambda s, i=id: ask(s, alice, i, Event.TERMINATE))
                ended.add(id)

    tearing = asyncio.create_task(tear(lines, chance))
    try:
        async with asyncio.timeout(150):
            await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    finally:
        tearing.cancel()
        for line in lines:
            line.commits_to_lose = line.commits_to_stop = 0
        for database in databases:
            database.close()

    found, _ = stocked.database.run(lambda c: fleet.page(c, stocked.alice.id, offset=0, limit=200))
    assert {row.name: row.id for row in found} == launched
    assert len(found) == len(launched) > CLIENTS
    assert {row.id for row in found if row.state is State.TERMINATING} == ended
    assert in_database(stocked.database, now=clock.now(), settings=Settings()) == []
    assert sum(line.connections for line in lines) > 40, "hardly anything was torn"
