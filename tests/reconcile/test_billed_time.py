"""The loop's listings are what a meter ends with."""

from __future__ import annotations

from sqlalchemy import select
from tests.reconcile.house import House

from tidemill.model.lifecycle import State
from tidemill.store.schema import meters


def billed(house: House) -> float:
    rows = house.stocked.database.run(lambda c: c.execute(select(meters).order_by(meters.c.id)).all())
    return (rows[0].closed_at - rows[0].opened_at).total_seconds()


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
