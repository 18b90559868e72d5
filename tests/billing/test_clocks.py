"""Servers whose clocks are a little apart charge no second twice, whoever of them posted what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select

from tests import invariants
from tests.billing.audited import differences
from tests.billing.town import Town
from tests.stock import START
from tidemill.actions.ask import ask
from tidemill.actions.context import Context
from tidemill.model.account import Caller
from tidemill.model.ledger import Cause
from tidemill.model.lifecycle import Event, State
from tidemill.store import instances, metering, meters
from tidemill.store.database import Database
from tidemill.store.schema import meters as rows
from tidemill.wake import Wake

HOUR = 3_600_000_000
AHEAD = 3.0  # seconds, of the server that sees and posts; the other one writes down what happens


async def seen_and_posted_ahead(town: Town, seconds: float) -> None:
    """Time passes, and a server whose clock is ahead has a listing and posts until then, by its clock."""
    town.clock.pass_by(seconds + AHEAD)
    town.see()
    await town.billing.post()
    town.clock.set_back(AHEAD)


def metered(town: Town, kind: str) -> list[tuple[float, float | None]]:
    """The meters of a kind, in seconds from the beginning."""
    found = town.stocked.database.run(
        lambda c: c.execute(select(rows).where(rows.c.kind == kind).order_by(rows.c.id)).all()
    )
    return [
        (
            (row.opened_at - START).total_seconds(),
            None if row.closed_at is None else (row.closed_at - START).total_seconds(),
        )
        for row in found
    ]


@pytest.mark.parametrize("ends", [Event.ABSENT, Event.EXITED, Event.RESTART], ids=str)
async def test_what_comes_back_at_once_is_not_charged_for_what_was_posted_before(
    town: Town, ends: Event
) -> None:
    town.price(HOUR)
    id = town.run()
    await seen_and_posted_ahead(town, 600)
    assert town.spent(id) == 603 * HOUR // 3600
    town.clock.pass_by(1)
    town.do(id, ends)
    town.clock.pass_by(1)
    town.do(id, Event.REACHABLE)
    town.clock.pass_by(598)
    town.see()
    town.stop(id)
    await town.settle()
    assert metered(town, "compute") == [(0, 603), (603, 1200)]
    assert town.spent(id) == 1200 * HOUR // 3600
    assert list(invariants.meters(invariants.read_books(town.stocked.database))) == []
    assert [
        (before.until, after.since)
        for before, after in pairwise(town.entries(Cause.CHARGE))
        if before.until > after.since
    ] == []


async def test_a_stop_is_said_to_be_no_earlier_than_what_was_charged(town: Town) -> None:
    """And where nothing was charged beyond it, it is when it was asked for."""
    town.price(HOUR)
    early, late = town.run(), town.run()
    await seen_and_posted_ahead(town, 600)
    for id, after in ((early, 1), (late, 9)):
        town.clock.pass_by(after)
        town.do(id, Event.STOP)
    said = [(town.get(id).state_since - START).total_seconds() for id in (early, late)]
    assert said == [603, 610]
    assert [until for _, until in metered(town, "compute")] == said
    for id in (early, late):
        line = town.stocked.database.run(lambda c, id=id: instances.history(c, id, after=0, limit=10))[-1]
        assert line.at == town.get(id).state_since
    assert town.get(early).due_at == START + timedelta(seconds=601), "looked at at once all the same"


async def test_nobody_posts_more_of_a_meter_while_it_is_closed(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is posted between the read of a meter and its end would be beyond the instant of its end."""
    database = town.stocked.database
    if database.is_sqlite:
        pytest.skip("there they take turns")
    town.price(HOUR)
    id = town.run()
    town.clock.pass_by(600 + AHEAD)
    town.see()
    ahead = town.clock.now()
    town.clock.set_back(AHEAD)
    batches: list[metering.Batch] = []
    follow = meters.follow

    def meanwhile(*given: Any) -> None:
        batches.append(database.run(lambda c: metering.run_batch(c, ahead, 10)))
        follow(*given)

    monkeypatch.setattr(meters, "follow", meanwhile)
    await database.write(lambda c: instances.record(c, town.get(id, c), Event.STOP, town.clock.now()))
    monkeypatch.undo()
    assert [batch.postings for batch in batches] == [0]
    await town.billing.post()
    assert metered(town, "compute") == [(0, 600)]
    assert town.spent(id) == 600 * HOUR // 3600


async def test_a_disk_that_is_paid_again_at_once_is_not_charged_twice(town: Town) -> None:
    town.price(0, disk=HOUR // 10)
    id = town.run(data_disk_gb=10)
    town.stop(id)
    await seen_and_posted_ahead(town, 600)
    town.clock.pass_by(1)
    town.do(id, Event.UNPAID)
    assert town.state(id) is State.ARCHIVED
    town.clock.pass_by(1)
    town.do(id, Event.PAID)
    town.clock.pass_by(598)
    town.do(id, Event.TERMINATE)
    await town.settle()
    assert metered(town, "disk") == [(0, 603), (603, 1200)]
    assert town.spent(id) == 1200 * HOUR // 3600


class Late:
    """A database that answers after ``meanwhile``."""

    def __init__(self, database: Database, meanwhile: Callable[[], Awaitable[Any]]) -> None:
        self._database, self._meanwhile = database, meanwhile

    async def write(self, work: Any, *, durable: bool = True) -> Any:
        await self._meanwhile()
        return await self._database.write(work, durable=durable)


async def test_a_stop_that_the_database_keeps_waiting_ends_no_time_that_was_charged_meanwhile(
    town: Town,
) -> None:
    town.price(HOUR)
    id = town.run()
    town.clock.pass_by(600)

    async def seen_and_posted() -> None:
        town.clock.pass_by(20)
        town.see()
        await town.billing.post()

    late: Any = Late(town.stocked.database, seen_and_posted)
    unused: Any = None
    context = Context(late, town.clock, Wake(), town.settings, unused, {}, unused)
    await ask(context, Caller(town.user), id, Event.STOP)
    assert metered(town, "compute") == [(0, 620)]
    assert (town.get(id).state_since - START).total_seconds() == 620
    town.do(id, Event.ABSENT)
    assert not differences(town.stocked.database)
