"""A look at a wallet and a move of an instance, each waiting for the row that the other has."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.billing.town import Town
from tidemill.model.ledger import Cause
from tidemill.model.lifecycle import Event, State
from tidemill.reconcile import purses
from tidemill.store import instances, meters

HOUR = 3_600_000_000


async def test_a_look_that_meets_a_move_is_made_again_and_so_is_the_move(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look has the wallet and wants the instance; the move has the instance and wants the wallet."""
    database = town.stocked.database
    town.price(HOUR)
    town.funds(2 * HOUR)
    id = town.run()
    town.voucher(HOUR, expires_at=town.clock.now() + timedelta(minutes=10))
    await town.settle()
    assert [notice.kind for notice in town.get(id).notices] == ["money"]
    town.do(id, Event.RESTART)
    town.clock.pass_by(15 * 60)
    await town.billing.post()  # all the time before it expired
    meeting = threading.Barrier(2)
    tries: list[str] = []

    def meets(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def here(*given: Any) -> Any:
            tries.append(name)
            if tries.count(name) == 1 and not database.is_sqlite:  # there they take turns
                meeting.wait(20)
            return real(*given)

        return here

    monkeypatch.setattr(purses, "_tell", meets("look", purses._tell))
    monkeypatch.setattr(meters, "follow", meets("move", meters.follow))

    def look(connection: Connection) -> list[purses.Due]:
        return purses.look(connection, town.settings, town.user.id, town.clock.now())

    def move(connection: Connection) -> None:
        instances.record(connection, town.get(id, connection), Event.REACHABLE, town.clock.now())

    async with asyncio.timeout(60):
        looked, _ = await asyncio.gather(database.write(look), database.write(move))
    assert looked == []
    assert town.state(id) is State.RUNNING
    assert [each.amount for each in town.entries(Cause.EXPIRY)] == [HOUR]
    assert sorted(set(tries)) == ["look", "move"]
    assert len(tries) == (2 if database.is_sqlite else 3), tries
    if not database.is_sqlite:
        await until_counted(town)
    await town.settle()
    assert [notice.kind for notice in town.get(id).notices] == ["money"], "whichever was first"


async def until_counted(town: Town) -> None:
    """PostgreSQL says that it ended a deadlock; what it counts is a little late."""
    counted = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    async with asyncio.timeout(30):
        while await town.stocked.database.read(lambda c: c.execute(counted).scalar_one()) != 1:
            await asyncio.sleep(0.1)
