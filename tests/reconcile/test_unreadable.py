"""A row that this version cannot read is left alone, is named, and keeps nobody else from anything."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, text, update
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs
from tests.reconcile.house import House, settle
from tests.stock import GPU_TYPE, REGION

from tidemill.doctor import books
from tidemill.model.lifecycle import Event, State
from tidemill.reconcile.billing import Billing
from tidemill.reconcile.nodes import register_nodes
from tidemill.store import fleet, instances
from tidemill.store.instances import Unreadable
from tidemill.store.schema import instances as rows
from tidemill.wake import Wake


def unguarded(connection: Connection) -> None:
    """As in a database from before there was a guard."""
    of = "" if connection.dialect.name == "sqlite" else " ON instances"
    connection.execute(text(f"DROP TRIGGER instances_known_state{of}"))


def garble(house: House, id: str, word: str = "Melted") -> None:
    def work(connection: Connection) -> None:
        unguarded(connection)
        connection.execute(update(rows).where(rows.c.id == id).values(state=word))

    house.stocked.database.run(work)


async def test_no_instance_is_moved_to_a_state_that_nobody_knows(house: House) -> None:
    id = house.launch()

    def put(state: str) -> int:
        change = update(rows).where(rows.c.id == id).values(state=state)
        return house.stocked.database.run(lambda c: c.execute(change).rowcount)

    for state in State:
        assert put(state.value) == 1
    with pytest.raises(IntegrityError, match="no state of an instance"):
        put("Melted")


@pytest.mark.parametrize("due", [True, False])
async def test_it_is_left_alone_and_the_others_go_on(house: House, due: bool) -> None:
    loop = house.loop()
    id = house.launch(type_id=GPU_TYPE.id)
    await house.until_state(loop, id, State.RUNNING)
    if due:
        house.ask(id, Event.STOP)
    garble(house, id)
    loop = house.loop()
    with capture_logs() as said:
        other = house.launch()
        await house.until_state(loop, other, State.RUNNING)
        await register_nodes(house.stocked.database, house.settings, REGION.id, house.driver, ())
        for _ in range(3):
            house.clock.pass_by(house.settings.full_pass)
            await loop.run_pass()
            await settle(loop)
    assert [one for one in said if one.get("exc_info")] == []
    assert {(one["instance"], one["state"]) for one in said if one["log_level"] == "error"} == {
        (id, "Melted")
    }
    assert id in house.driver.made, "its container is nobody's orphan"
    assert house.leased_to(id) is None
    house.driver.play_vanish(other)
    await house.until(loop, lambda: house.get(other).start == 2, seconds=2)


async def test_once_it_is_mended_it_is_looked_after_again(house: House) -> None:
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    garble(house, id)
    house.clock.pass_by(house.settings.full_pass)
    await loop.run_pass()
    garbled = update(rows).where(rows.c.id == id).values(state="Running")
    house.stocked.database.run(lambda c: c.execute(garbled))
    house.driver.play_vanish(id)
    house.clock.pass_by(house.settings.full_pass)
    await house.until(loop, lambda: house.get(id).start == 2, seconds=2)


async def test_the_billing_goes_on(house: House) -> None:
    loop = house.loop()
    bad, good = house.launch(), house.launch(stop_after_seconds=60)
    for id in (bad, good):
        await house.until_state(loop, id, State.RUNNING)
    garble(house, bad)
    started = house.clock.now()
    house.stocked.database.run(lambda c: c.execute(update(rows).values(timer_at=started)))
    house.clock.pass_by(61)
    await Billing(house.stocked.database, house.clock, house.settings, Wake()).run_pass()
    assert house.get(good).state is State.STOPPING


async def test_its_owner_is_told_and_the_doctor_names_it(house: House) -> None:
    loop, id = house.loop(), house.launch(type_id=GPU_TYPE.id)
    await house.until_state(loop, id, State.RUNNING)
    other = house.launch()
    garble(house, id)
    alice = house.stocked.alice.id

    def read(connection: Connection) -> list[str]:
        with pytest.raises(Unreadable, match="does not know"):
            instances.get(connection, id, user_id=alice)
        return [one.id for one in fleet.page(connection, alice, offset=0, limit=10)[0]]

    assert house.stocked.database.run(read) == [other]
    found = house.stocked.database.run(lambda c: books.look(c, house.clock.now(), house.settings))
    (named,) = [one for one in found.symptoms if one.code == "unreadable"]
    assert named.about == id
    assert "'Melted'" in named.meaning
    assert "Running" in named.remedy
    assert {one.code for one in found.symptoms} == {"unreadable"}
