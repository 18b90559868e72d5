"""A node port that somebody else of the machine has: another one, as long as nobody knows it."""

from __future__ import annotations

import pytest
from tests.reconcile.house import House

from tidemill.drivers.contract import Port, Workload
from tidemill.model.lifecycle import Event, State
from tidemill.settings import Settings
from tidemill.store import instances, reservations


async def occupy(house: House, port: int) -> None:
    """Something of ours that the database does not know runs with this node port."""
    stranger = Workload(
        id="notebook-stranger", start=1, tenant="t", hostname="h", image="i", cpu=1, memory_mb=64, shm_mb=1,
        pids=1, ports=(Port(22, port),), authorized_keys=(), host_key=bytes(32), node="node-0",
    )  # fmt: skip
    await house.driver.ensure_running(stranger)


@pytest.fixture(autouse=True)
def _lowest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations.secrets, "randbelow", lambda below: 0)


async def test_a_launch_gets_another_port_and_its_history_says_so(house: House) -> None:
    house.settings = Settings(node_ports="31000-31001")
    await occupy(house, 31000)
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    ports = house.stocked.database.run(lambda c: reservations.ports_of(c, [id]))
    assert [port.node_port for port in ports[id]] == [31001]
    assert [port.node_port for port in house.driver.made[id].workload.ports] == [31001]
    history = house.stocked.database.run(lambda c: instances.history(c, id, after=0, limit=100))
    (line,) = (line for line in history if line.event == "portChanged")
    assert line.message.startswith(
        "Node port 31000 is in use by another program of the machine; it gets 31001"
    )


async def test_without_another_port_a_launch_ends_with_the_reason(house: House) -> None:
    house.settings = Settings(node_ports="31000-31000")
    await occupy(house, 31000)
    loop, id = house.loop(), house.launch()
    failed = await house.until_state(loop, id, State.INITIALIZATION_FAILED)
    assert failed.reason == "NoRoom"
    assert "31000" in failed.message


async def test_a_port_that_its_user_knows_is_not_changed_behind_their_back(house: House) -> None:
    house.settings = Settings(node_ports="31000-31001")
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    house.ask(id, Event.STOP)
    await house.until_state(loop, id, State.STOPPED)
    await occupy(house, 31000)
    house.ask(id, Event.START)
    failed = await house.until_state(loop, id, State.STARTING_FAILED)
    assert (failed.reason, "31000" in failed.message) == ("NoRoom", True)
