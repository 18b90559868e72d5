"""The machines of a region as they were reported, and finding one that has room."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update
from tests.stock import NODE, REGION, Stocked

from tidemill.model.placement import Need, Room, fits
from tidemill.store import nodes, reservations
from tidemill.store.database import Database
from tidemill.store.nodes import Difference, FoundDevice, FoundNode
from tidemill.store.schema import devices
from tidemill.store.schema import nodes as rows

MANY = reservations.CANDIDATES + 8


def some(number: int, **changes: object) -> FoundNode:
    return replace(NODE, id=f"node-{number:03}", name=f"node-{number:03}", **changes)  # type: ignore[arg-type]


def compare(stocked: Stocked, *found: FoundNode) -> Difference:
    return stocked.database.run(lambda c: nodes.compare(c, REGION.id, found))


def write(stocked: Stocked, *changed: FoundNode) -> None:
    stocked.database.run(lambda c: nodes.register(c, REGION.id, changed))


def test_only_what_differs_is_to_be_written(stocked: Stocked) -> None:
    first, second, third = some(1), some(2), some(3)
    assert compare(stocked, NODE, first) == Difference((), (first,), frozenset({first.id}))
    write(stocked, first, second, third)
    assert compare(stocked, NODE, third, first, second) == Difference((), (), frozenset())
    bigger = some(1, memory_mb=20_000)
    other_devices = some(
        2, devices=(FoundDevice("gpu-1", "H100", ()), FoundDevice("gpu-9", "H100", ("/dev/9",)))
    )
    found = compare(stocked, bigger, other_devices, third)
    assert found == Difference((NODE.id,), (bigger, other_devices), frozenset())
    stocked.database.run(lambda c: nodes.leave_out(c, found.gone))
    write(stocked, *found.changed)
    assert compare(stocked, bigger, other_devices, third) == Difference((), (), frozenset())
    assert compare(stocked, bigger, other_devices, third, NODE) == Difference(
        (), (NODE,), frozenset({NODE.id})
    )


def test_what_is_used_and_held_stays_when_a_node_is_written_again(stocked: Stocked) -> None:
    def hold(connection: Connection) -> None:
        connection.execute(update(rows).values(cpu_used=3000, memory_used=512))
        connection.execute(
            update(devices).where(devices.c.device_id == "gpu-0").values(instance_id="someone")
        )

    def held(connection: Connection) -> list[tuple[object, ...]]:
        found = select(devices.c.device_id, devices.c.present, devices.c.instance_id).order_by(
            devices.c.device_id
        )
        return [tuple(row) for row in connection.execute(found)]

    stocked.database.run(hold)
    without = replace(NODE, devices=NODE.devices[1:])
    write(stocked, without)
    assert stocked.database.run(held) == [("gpu-0", False, "someone"), ("gpu-1", True, None)]
    write(stocked, NODE)
    assert stocked.database.run(held) == [("gpu-0", True, "someone"), ("gpu-1", True, None)]
    used = stocked.database.run(lambda c: c.execute(select(rows.c.cpu_used, rows.c.memory_used)).one())
    assert tuple(used) == (3000, 512)


@pytest.mark.parametrize("gpu_name", ["", "H100"])
def test_the_last_of_many_nodes_is_found(stocked: Stocked, gpu_name: str) -> None:
    small = [some(number, memory_mb=100) for number in range(MANY)]
    last = some(999)
    write(stocked, *small, last)
    stocked.database.run(lambda c: nodes.leave_out(c, [NODE.id]))
    need = Need(1000, 1024, 2 if gpu_name else 0)
    assert stocked.database.run(lambda c: reservations.place(c, REGION.id, need, gpu_name)) == last.id
    more = Need(1000, 10**6, need.devices)
    assert stocked.database.run(lambda c: reservations.place(c, REGION.id, more, gpu_name)) is None


@given(
    free=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), max_size=MANY + 4),
    wanted=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3)),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_has_room_is_found_and_nothing_else(
    stocked: Stocked, free: list[tuple[int, int, int]], wanted: tuple[int, int, int]
) -> None:
    need = Need(wanted[0] * 1000, wanted[1] * 1024, wanted[2])
    found = [
        some(
            number,
            cpu_milli=cpu * 1000,
            memory_mb=memory * 1024,
            devices=tuple(FoundDevice(f"gpu-{index}", "H100", ()) for index in range(gpus)),
        )
        for number, (cpu, memory, gpus) in enumerate(free)
    ]
    room = {
        node.id
        for node in found
        if fits(Room(node.id, node.cpu_milli, node.memory_mb, len(node.devices)), need)
    }

    def work(connection: Connection) -> str | None:
        connection.execute(update(rows).values(present=False))
        connection.execute(update(devices).values(present=False))
        nodes.register(connection, REGION.id, found)
        return reservations.place(connection, REGION.id, need, "H100" if need.devices else "")

    placed = stocked.database.run(work)
    assert placed in room if room else placed is None


@pytest.fixture
def sqlite(stocked: Stocked) -> Database:
    if not stocked.database.is_sqlite:
        pytest.skip("the plan of a small table says nothing there")
    return stocked.database


@pytest.mark.parametrize("statement", ["_SOME_ROOMS", "_SOME_ROOMS_WITH_DEVICES"])
def test_placing_looks_at_no_more_nodes_than_it_needs(sqlite: Database, statement: str) -> None:
    asked = {"region_id": REGION.id, "cpu_milli": 1, "memory_mb": 1, "gpu_name": "H100", "gpu_num": 1}

    def work(connection: Connection) -> list[str]:
        compiled = getattr(reservations, statement).statement.compile(connection)
        values = compiled.construct_params(asked)
        sql = "EXPLAIN QUERY PLAN " + str(compiled)
        plan = connection.exec_driver_sql(sql, tuple(values[name] for name in compiled.positiontup or ()))
        return [row.detail for row in plan]

    plan = sqlite.run(work)
    assert plan
    assert all(line.startswith("SEARCH") for line in plan), plan  # no SCAN of all, no sorting of all
