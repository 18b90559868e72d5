"""What the doctor finds in a database: each contradiction planted, seen, and where safe mended."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Event as Flag

import pytest
from sqlalchemy import Connection, delete, select, update
from tests.stock import GPU_TYPE, NODE, REGION, START, HandClock, Stocked, accept

from tidemill.doctor import books
from tidemill.doctor.books import Books
from tidemill.model.lifecycle import Event
from tidemill.settings import Settings
from tidemill.store import checkup, instances, servers
from tidemill.store.database import Database
from tidemill.store.migrate import migrate
from tidemill.store.schema import devices, meters, nodes, reservations
from tidemill.store.schema import instances as rows
from tidemill.store.servers import Server

SETTINGS = Settings()
ME = Server("server-1", "", "all", "127.0.0.1:8420", (), START, START)


def launch(stocked: Stocked, clock: HandClock, type_id: str = GPU_TYPE.id) -> str:
    return stocked.database.run(
        lambda c: accept(c, SETTINGS, stocked.alice, stocked.order(type_id=type_id), clock.now())
    ).id


def move(stocked: Stocked, clock: HandClock, id: str, *events: Event) -> None:
    for event in events:

        def work(connection: Connection, event: Event = event) -> None:
            found = instances.get(connection, id)
            assert found is not None
            instances.record(connection, found, event, clock.now())

        stocked.database.run(work)


def look(stocked: Stocked, clock: HandClock) -> Books:
    stocked.database.run(lambda c: servers.beat(c, ME.id, clock.now()))
    return stocked.database.run(lambda c: books.look(c, clock.now(), SETTINGS))


def codes(found: Books) -> list[tuple[str, str]]:
    return sorted((symptom.code, symptom.about) for symptom in found.symptoms)


@pytest.fixture
def lived(stocked: Stocked, clock: HandClock) -> tuple[Stocked, HandClock, str, str]:
    """A deployment in which all is well: one instance runs, one is stopped, one was released."""
    stocked.database.run(lambda c: servers.join(c, ME))
    runs, stopped, gone = (launch(stocked, clock) for _ in range(1)), "", ""
    (running,) = runs
    move(stocked, clock, running, Event.REACHABLE)
    stopped = launch(stocked, clock)
    move(stocked, clock, stopped, Event.REACHABLE, Event.STOP, Event.EXITED)
    gone = launch(stocked, clock)
    move(stocked, clock, gone, Event.TERMINATE, Event.ABSENT)
    stocked.database.run(lambda c: c.execute(update(rows).values(due_at=None)))
    return stocked, clock, running, stopped


Lived = tuple[Stocked, HandClock, str, str]


def test_nothing_is_found_where_all_is_well(lived: Lived) -> None:
    stocked, clock, running, _ = lived
    found = look(stocked, clock)
    assert codes(found) == []
    assert [(device.holder, device.model) for device in found.held] == [(running, "H100")]
    assert [server.id for server in found.alive] == [ME.id]


def test_sums_that_are_wrong_are_found_and_counted_anew(lived: Lived) -> None:
    stocked, clock, _, _ = lived
    stocked.database.run(lambda c: c.execute(update(nodes).values(cpu_used=7000, memory_used=0)))
    found = look(stocked, clock)
    assert codes(found) == [("reservationSum", "node node-0")]
    (sums,) = found.sums
    assert (sums.cpu_says, sums.cpu_is, sums.memory_says, sums.memory_is) == (7000, 2000, 0, 4096)
    stocked.database.run(lambda c: checkup.count_anew(c, sums.node_id))
    assert codes(look(stocked, clock)) == []


def test_counting_a_node_anew_that_gave_nothing(lived: Lived) -> None:
    stocked, clock, running, _ = lived
    move(stocked, clock, running, Event.STOP, Event.EXITED)
    stocked.database.run(lambda c: c.execute(update(nodes).values(cpu_used=1)))
    stocked.database.run(lambda c: checkup.count_anew(c, NODE.id))
    assert look(stocked, clock).sums == []


Plant = Callable[[Connection, str, str], object]
PLANTED: dict[str, tuple[Plant, Callable[[str, str], set[tuple[str, str]]]]] = {
    "a share that is kept": (
        lambda c, _, stopped: c.execute(
            reservations.insert().values(instance_id=stopped, node_id=NODE.id, cpu_milli=0, memory_mb=0)
        ),
        lambda _, stopped: {("shareKept", stopped), ("deviceCount", stopped)},
    ),
    "a share that is missing": (
        lambda c, running, _: c.execute(delete(reservations).where(reservations.c.instance_id == running)),
        lambda running, _: {("shareMissing", running), ("reservationSum", "node node-0")},
    ),
    "a device of a stopped one": (
        lambda c, _, stopped: c.execute(
            update(devices).where(devices.c.instance_id.is_(None)).values(instance_id=stopped)
        ),
        lambda _, __: {("deviceKept", "node-0/gpu-1")},
    ),
    "a device of nobody": (
        lambda c, _, __: c.execute(
            update(devices).where(devices.c.instance_id.is_(None)).values(instance_id="notebook-of-nobody")
        ),
        lambda _, __: {("deviceOfNobody", "node-0/gpu-1")},
    ),
    "a device that was lost": (
        lambda c, _, __: c.execute(update(devices).values(instance_id=None)),
        lambda running, _: {("deviceCount", running)},
    ),
    "a meter that stands still": (
        lambda c, _, __: c.execute(update(meters).values(closed_at=START + timedelta(days=1))),
        lambda running, _: {("meter", running)},
    ),
    "a meter that runs on": (
        lambda c, _, stopped: c.execute(
            update(meters).where(meters.c.instance_id == stopped).values(closed_at=None)
        ),
        lambda _, stopped: {("meter", stopped)},
    ),
    "one that nobody looks at": (
        lambda c, _, stopped: c.execute(update(rows).where(rows.c.id == stopped).values(state="Stopping")),
        lambda _, stopped: {("forgotten", stopped)},
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_contradicts_itself_is_found(lived: Lived, what: str) -> None:
    stocked, clock, running, stopped = lived
    plant, expected = PLANTED[what]
    stocked.database.run(lambda c: plant(c, running, stopped))
    found = look(stocked, clock)
    assert set(codes(found)) >= expected(running, stopped)
    unexpected = {code for code, _ in codes(found)} - {code for code, _ in expected(running, stopped)}
    assert not unexpected


def test_work_that_waits_and_states_that_last_are_found_and_rung_for(lived: Lived) -> None:
    stocked, clock, running, _ = lived
    stocked.database.run(
        lambda c: c.execute(
            update(rows).where(rows.c.id == running).values(state="Restarting", due_at=clock.now())
        )
    )
    clock.pass_by(SETTINGS.restarting_deadline)
    found = look(stocked, clock)
    assert ("workWaits", REGION.id) in codes(found)
    assert not found.to_ring, "a minute's patience is due to the loop"
    clock.pass_by(120)
    far = clock.now() + timedelta(days=1)
    stocked.database.run(lambda c: c.execute(update(rows).where(rows.c.id == running).values(due_at=far)))
    found = look(stocked, clock)
    assert ("stuck", running) in codes(found)
    assert found.to_ring == [running]
    assert stocked.database.run(lambda c: checkup.ring(c, found.to_ring, clock.now())) == 1
    row = stocked.database.run(lambda c: instances.get(c, running))
    assert row is not None
    assert row.due_at == clock.now()
    assert stocked.database.run(lambda c: checkup.ring(c, found.to_ring, clock.now())) == 0


def test_an_end_that_is_not_confirmed_says_so(lived: Lived) -> None:
    stocked, clock, running, _ = lived
    move(stocked, clock, running, Event.TERMINATE)
    clock.pass_by(SETTINGS.terminating_deadline + 120)
    stocked.database.run(
        lambda c: c.execute(update(rows).where(rows.c.id == running).values(reason="Overdue"))
    )
    found = look(stocked, clock)
    assert ("endNotConfirmed", running) in codes(found)
    assert running not in found.to_ring


def test_leases_of_a_server_that_is_silent_are_found(lived: Lived) -> None:
    stocked, clock, running, _ = lived
    stocked.database.run(
        lambda c: c.execute(update(rows).where(rows.c.id == running).values(leased_to=ME.id))
    )
    assert codes(look(stocked, clock)) == []
    clock.pass_by(3600)
    found = stocked.database.run(lambda c: books.look(c, clock.now(), SETTINGS))
    assert found.alive == []
    assert ("leaseOfNobody", ME.id) in codes(found)
    assert next(one for one in found.symptoms if one.code == "leaseOfNobody").passing


def test_a_clock_of_its_own_is_compared(lived: Lived) -> None:
    """PostgreSQL has a clock; the hand clock of these tests is years behind it."""
    stocked, clock, _, _ = lived
    at = stocked.database.run(checkup.clock_of)
    assert (at is None) == stocked.database.is_sqlite
    assert list(books.look_at_clock("x", clock.now() + timedelta(seconds=1), clock.now())) == []
    (symptom,) = books.look_at_clock("x", clock.now() - timedelta(minutes=5), clock.now())
    assert "300 s behind" in symptom.meaning


@pytest.mark.parametrize("first", ["launch", "end"])
def test_counting_anew_beside_a_launch_and_an_end_loses_neither(lived: Lived, first: str) -> None:
    """The other transaction has done its work and is not committed when the counting begins."""
    stocked, clock, running, _ = lived
    half_way, go_on = Flag(), Flag()

    def other(connection: Connection) -> None:
        if first == "launch":
            accept(connection, SETTINGS, stocked.alice, stocked.order(), clock.now())
        else:
            found = instances.get(connection, running)
            assert found is not None
            stopping = instances.record(connection, found, Event.STOP, clock.now())
            instances.record(connection, stopping, Event.EXITED, clock.now())
        half_way.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(stocked.database.run, other)
        assert half_way.wait(30)
        counting = pool.submit(stocked.database.run, lambda c: checkup.count_anew(c, NODE.id))
        with pytest.raises(TimeoutError):
            counting.result(timeout=0.5)
        go_on.set()
        slow.result(timeout=30)
        counting.result(timeout=30)
    assert look(stocked, clock).sums == []


def test_what_the_engine_has_is_not_said_without_asking_it(lived: Lived) -> None:
    stocked, clock, _, _ = lived
    gone = stocked.database.run(
        lambda c: c.execute(select(rows.c.id).where(rows.c.state == "Released")).scalar_one()
    )
    free = update(devices).where(devices.c.instance_id.is_(None))
    stocked.database.run(lambda c: c.execute(free.values(instance_id=gone)))
    (symptom,) = look(stocked, clock).symptoms
    assert symptom.meaning == f"it is kept for {gone}, which is Released; nobody else gets it meanwhile"


def test_damage_to_foreign_keys_names_each_row_once_and_not_all_of_them(tmp_path: Path) -> None:
    file = tmp_path / "damaged.db"
    database = Database(f"sqlite:///{file}")
    try:
        migrate(database)
        with closing(sqlite3.connect(file)) as raw, raw:
            raw.execute(
                "INSERT INTO entries (posting_id, line, at, kind, user_id, debit_account, credit_account, "
                "amount_micro) VALUES ('p', 0, 0, 'charge', 'nobody', 'a', 'b', 1)"
            )
            raw.executemany(
                "INSERT INTO devices (node_id, device_id, name, paths, present) "
                "VALUES ('gone', ?, '', '[]', 1)",
                [(f"gpu-{number:02}",) for number in range(30)],
            )
        found = database.run(checkup.integrity)
    finally:
        database.close()
    assert len(found) == 21
    assert len(set(found)) == 21
    assert found[0] == (
        "the row of devices with node_id gone and device_id gpu-00 refers to a row of nodes that is not there"
    )
    assert found[-1] == "11 more rows refer to rows that are not there"
