"""Where an instance was placed is where its driver is told to run it."""

from __future__ import annotations

from dataclasses import replace

from tests.reconcile.house import NODE, House
from tests.stock import GPU_TYPE, REGION, HandClock, Stocked

from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.lifecycle import Event, State
from tidemill.model.offer import offer_id
from tidemill.reconcile.nodes import register_nodes
from tidemill.settings import Settings

OTHER = replace(NODE, name="node-1")  # its devices have the same names, as those of like machines may


async def test_every_instance_goes_where_its_share_is_kept(stocked: Stocked, clock: HandClock) -> None:
    driver = SimulatedDriver(nodes=[NODE, OTHER], sleep=clock.sleep, now=clock.monotonic)
    house = House(stocked, clock, driver, Settings())
    await register_nodes(stocked.database, house.settings, REGION.id, driver)
    loop = house.loop()
    ids = [house.launch(type_id=GPU_TYPE.id) for _ in range(4)]
    for id in ids:
        await house.until_state(loop, id, State.RUNNING)
    assert sorted(driver.made[id].node for id in ids) == ["node-0", "node-0", "node-1", "node-1"]
    for id in ids:
        assert offer_id("node", f"{REGION.id}/{driver.made[id].workload.node}") == house.get(id).node_id
    for id in ids:
        house.ask(id, Event.STOP)
        await house.until_state(loop, id, State.STOPPED)
    house.ask(ids[3], Event.START)
    await house.until_state(loop, ids[3], State.RUNNING)
    assert driver.made[ids[3]].starts == [1, 2]
    assert driver.violations == []
