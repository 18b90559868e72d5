"""The loop's listings are what a meter ends with."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select
from tests.reconcile.house import House
from tests.stock import REGION

from tidemill.model.lifecycle import Event, State
from tidemill.model.observation import Phase, Seen
from tidemill.reconcile.compare import compare
from tidemill.store import sightings
from tidemill.store.schema import meters


def billed(house: House, which: int = 0) -> float:
    rows = house.stocked.database.run(lambda c: c.execute(select(meters).order_by(meters.c.id)).all())
    return (rows[which].closed_at - rows[which].opened_at).total_seconds()


async def test_what_vanished_is_billed_until_a_listing_last_showed_it(house: House) -> None:
    loop = house.loop()
    id = house.launch()
    running = await house.until_state(loop, id, State.RUNNING)
    house.clock.pass_by(house.settings.full_pass)
    seen = house.clock.now()
    await loop.run_pass()
    house.clock.pass_by(30)
    house.driver.play_vanish(id)
    later = house.loop()  # a server that starts anew knows no more than the database and the engine
    await house.until(later, lambda: house.get(id).state is not State.RUNNING, seconds=2)
    assert running.started_at is not None
    assert billed(house) == (seen - running.started_at).total_seconds()


async def test_an_outage_of_the_server_is_billed_when_it_ran_all_along(house: House) -> None:
    id = house.launch()
    running = await house.until_state(house.loop(), id, State.RUNNING)
    house.clock.pass_by(3600)
    back = house.clock.now()
    later = house.loop()
    await later.run_pass()
    house.clock.pass_by(1)
    house.driver.play_vanish(id)
    await house.until(later, lambda: house.get(id).state is not State.RUNNING, seconds=2)
    assert running.started_at is not None
    assert billed(house) == (back - running.started_at).total_seconds()


async def test_an_earlier_start_that_comes_back_is_not_billed_for_the_gap_before_it(house: House) -> None:
    """The server dies between each listing and what it would have done about it."""
    loop = house.loop()
    id = house.launch()
    await house.until_state(loop, id, State.RUNNING)
    house.ask(id, Event.RESTART)
    running = await house.until_state(loop, id, State.RUNNING)
    assert running.start == 2
    house.clock.pass_by(house.settings.full_pass)
    seen = house.clock.now()
    await loop.run_pass()

    def listed(shown: Mapping[str, Seen]) -> None:
        house.clock.pass_by(30)
        now = house.clock.now()

        def work(connection: Connection) -> None:
            found = compare(connection, REGION.id, shown, {})
            assert id in found.to_look_at
            sightings.sighted(connection, REGION.id, now, found.missing, now=now)

        house.stocked.database.run(work)

    listed({})
    listed({id: Seen(1, Phase.REACHABLE)})
    house.driver.play_vanish(id)
    later = house.loop()
    await house.until(later, lambda: house.get(id).state is not State.RUNNING, seconds=2)
    assert running.started_at is not None
    assert billed(house, 1) == (seen - running.started_at).total_seconds()
