"""The one writer of state: state, event, reservation and meter always agree."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select
from tests.stock import GPU_TYPE, NODE, HandClock, Stocked, accept, stock

from tidemill.model.errors import Conflict, Forbidden, OutOfStock, Unavailable
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import MOVES, STATES, Event, Keeps, State, Wanted, move
from tidemill.settings import Settings
from tidemill.store import instances, reservations
from tidemill.store.database import Database
from tidemill.store.instances import Stale
from tidemill.store.schema import devices, events, meters, node_ports, nodes
from tidemill.store.schema import reservations as reservation_rows

SETTINGS = Settings(node_ports="31000-31099")


def launched(
    stocked: Stocked, clock: HandClock, *, settings: Settings = SETTINGS, **order: object
) -> Instance:
    return stocked.database.run(
        lambda connection: accept(connection, settings, stocked.alice, stocked.order(**order), clock.now())
    )


def check_books(connection: Connection, found: Instance) -> None:
    """Everything beside an instance says the same as its state."""
    row = STATES[found.state]
    held = connection.execute(
        select(reservation_rows).where(reservation_rows.c.instance_id == found.id)
    ).first()
    owned = connection.execute(
        select(func.count()).select_from(devices).where(devices.c.instance_id == found.id)
    ).scalar_one()
    if row.keeps is Keeps.YES and row.wanted is Wanted.RUNNING:
        assert held is not None
    if row.keeps is Keeps.NO:
        assert held is None
    assert owned == (found.gpu_num if held is not None else 0)
    open_meters = connection.execute(
        select(func.count())
        .select_from(meters)
        .where(meters.c.instance_id == found.id, meters.c.closed_at.is_(None))
    ).scalar_one()
    assert open_meters == int(row.billed)
    ports = connection.execute(
        select(func.count()).select_from(node_ports).where(node_ports.c.instance_id == found.id)
    ).scalar_one()
    assert ports == (0 if found.state is State.RELEASED else 1)
    node = connection.execute(select(nodes.c.cpu_used, nodes.c.memory_used)).one()
    assert tuple(node) == ((found.cpu_milli, found.memory_mb) if held is not None else (0, 0))
    last = connection.execute(
        select(events.c.to_state)
        .where(events.c.instance_id == found.id)
        .order_by(events.c.seq.desc())
        .limit(1)
    ).scalar_one()
    assert last == found.state.value
    assert (
        connection.execute(
            select(instances.instances.c.state).where(instances.instances.c.id == found.id)
        ).scalar_one()
        == found.state.value
    )


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(happenings=st.lists(st.tuples(st.sampled_from(sorted(Event)), st.integers(-3600, 3600)), max_size=25))
def test_state_event_reservation_and_meter_agree_whatever_happens(
    new_url: Callable[[], str], happenings: list[tuple[Event, int]]
) -> None:
    clock = HandClock()
    database = Database(new_url())
    try:
        stocked = stock(database, clock)
        instance = launched(stocked, clock, type_id=GPU_TYPE.id)
        for event, seconds in happenings:
            clock.pass_by(seconds)  # also backwards
            before = instance
            if move(instance.state, event) is None:
                with pytest.raises(Conflict):
                    database.run(lambda c, i=instance, e=event: instances.record(c, i, e, clock.now()))
            else:
                instance = database.run(lambda c, i=instance, e=event: instances.record(c, i, e, clock.now()))
                assert instance.state is MOVES[before.state][event].to
            database.run(lambda c, i=instance: check_books(c, i))
    finally:
        database.close()


def test_a_write_that_saw_an_older_version_is_refused(stocked: Stocked, clock: HandClock) -> None:
    old = launched(stocked, clock)
    new = stocked.database.run(lambda c: instances.record(c, old, Event.STOP, clock.now()))
    assert new.version == old.version + 1
    with pytest.raises(Stale):
        stocked.database.run(lambda c: instances.record(c, old, Event.PLACED, clock.now()))
    stocked.database.run(lambda c: check_books(c, new))


def test_what_holds_already_writes_nothing(stocked: Stocked, clock: HandClock) -> None:
    instance = launched(stocked, clock)
    same = stocked.database.run(lambda c: instances.record(c, instance, Event.START, clock.now()))
    assert same == instance


def test_a_note_cannot_change_the_state(stocked: Stocked, clock: HandClock) -> None:
    instance = launched(stocked, clock)
    with pytest.raises(ValueError, match="record"):
        stocked.database.run(lambda c: instances.note(c, instance, state=State.RUNNING))


def test_a_notice_is_a_revision_once_and_goes_with_the_next_start(stocked: Stocked, clock: HandClock) -> None:
    run = stocked.database.run
    instance = launched(stocked, clock)
    run(lambda c: instances.note(c, instance, due_at=None))

    def announce(kind: str, text: str | None) -> Instance:
        def work(connection: Connection) -> Instance:
            found = instances.get(connection, instance.id)
            assert found is not None
            written = instances.announce(connection, found, clock.now(), kind, text)
            assert instances.get(connection, instance.id) == written
            return written

        return run(work)

    first = announce("money", "it lasts for\nless than 4 hours")
    assert (first.revision, first.due_at) == (instance.revision + 1, clock.now())
    since = clock.now()
    clock.pass_by(60)
    assert announce("money", "it lasts for\nless than 4 hours") == first, "said already"
    both = announce("term", "it ends")
    assert [each.line for each in both.notices] == [
        f"{since:%Y-%m-%dT%H:%M:%SZ} money it lasts for less than 4 hours",
        f"{clock.now():%Y-%m-%dT%H:%M:%SZ} term it ends",
    ]
    last = announce("term", None)
    assert (last.notices, last.revision) == (first.notices, instance.revision + 3)
    assert announce("term", None) == last
    for event in (Event.REACHABLE, Event.EXITED, Event.REACHABLE, Event.STOP, Event.ABSENT):
        last = run(lambda c, i=last, e=event: instances.record(c, i, e, clock.now()))
        assert (last.notices, last.revision) == (first.notices, instance.revision + 3)
    again = run(lambda c: instances.record(c, last, Event.START, clock.now()))
    assert (again.notices, again.revision) == ((), instance.revision + 4)


def test_no_device_is_given_twice_and_the_third_finds_none(stocked: Stocked, clock: HandClock) -> None:
    first = launched(stocked, clock, type_id=GPU_TYPE.id)
    second = launched(stocked, clock, type_id=GPU_TYPE.id)
    with pytest.raises(OutOfStock, match=r"1x H100.*out of stock.*local.*cpu-1"):
        launched(stocked, clock, type_id=GPU_TYPE.id)
    held = stocked.database.run(
        lambda c: [row[0] for instance in (first, second) for row in reservations.devices_of(c, instance.id)]
    )
    assert sorted(held) == ["gpu-0", "gpu-1"]


def test_starting_again_needs_room(stocked: Stocked, clock: HandClock) -> None:
    stopped = launched(stocked, clock, type_id=GPU_TYPE.id)
    for event in (Event.STOP, Event.EXITED):
        stopped = stocked.database.run(lambda c, s=stopped, e=event: instances.record(c, s, e, clock.now()))
    assert stopped.state is State.STOPPED
    launched(stocked, clock, type_id=GPU_TYPE.id)
    launched(stocked, clock, type_id=GPU_TYPE.id)
    with pytest.raises(OutOfStock):
        stocked.database.run(lambda c: instances.record(c, stopped, Event.START, clock.now()))
    found = stocked.database.run(lambda c: instances.get(c, stopped.id))
    assert found == stopped


def test_ending_what_holds_nothing_needs_no_room(stocked: Stocked, clock: HandClock) -> None:
    """On a machine that is given out whole, a stopped or failed instance still ends (or stops)."""

    def after(*happened: Event) -> Instance:
        instance = launched(stocked, clock, type_id=GPU_TYPE.id)
        for event in happened:
            instance = stocked.database.run(
                lambda c, i=instance, e=event: instances.record(c, i, e, clock.now())
            )
        return instance

    ends = [
        (after(Event.STOP, Event.EXITED), Event.TERMINATE),
        (after(Event.REFUSED, Event.ABSENT), Event.TERMINATE),
        (after(Event.REFUSED, Event.ABSENT), Event.STOP),
    ]
    for _ in range(2):
        launched(stocked, clock, type_id=GPU_TYPE.id)
    for instance, event in ends:
        ended = stocked.database.run(lambda c, i=instance, e=event: instances.record(c, i, e, clock.now()))
        assert ended.state in {State.TERMINATING, State.STOPPING}
        assert stocked.database.run(lambda c, i=ended: reservations.devices_of(c, i.id)) == []


def test_the_range_of_node_ports_is_used_up_to_the_last(stocked: Stocked, clock: HandClock) -> None:
    narrow = Settings(node_ports="31000-31003")
    ports: set[int] = set()
    for _ in range(4):
        instance = launched(stocked, clock, settings=narrow)
        ports.add(
            stocked.database.run(lambda c, i=instance: reservations.ports_of(c, [i.id])[i.id][0].node_port)
        )
    assert ports == {31000, 31001, 31002, 31003}
    used_before = stocked.database.run(lambda c: c.execute(select(nodes.c.cpu_used)).scalar_one())
    with pytest.raises(Unavailable, match="31000 to 31003"):
        launched(stocked, clock, settings=narrow)
    # the launch that failed left nothing behind
    assert stocked.database.run(lambda c: c.execute(select(nodes.c.cpu_used)).scalar_one()) == used_before
    assert NODE.cpu_milli > used_before


def test_a_meter_never_ends_before_it_began(stocked: Stocked, clock: HandClock) -> None:
    instance = launched(stocked, clock)
    for event in (Event.PLACED, Event.REACHABLE):
        instance = stocked.database.run(lambda c, i=instance, e=event: instances.record(c, i, e, clock.now()))
    clock.set_back(3600)
    instance = stocked.database.run(lambda c: instances.record(c, instance, Event.STOP, clock.now()))
    opened, closed = stocked.database.run(
        lambda c: c.execute(select(meters.c.opened_at, meters.c.closed_at)).one()
    )
    assert opened == closed


def test_a_quota_counts_what_is_not_released_and_gpus_that_are_held(
    stocked: Stocked, clock: HandClock
) -> None:
    allowed = Settings(quota_instances=2, quota_gpus=1)
    first = launched(stocked, clock, settings=allowed, type_id=GPU_TYPE.id)
    with pytest.raises(Forbidden, match=r"quota GPUs: the limit is 1, 1 are in use .* needs 1 more"):
        launched(stocked, clock, settings=allowed, type_id=GPU_TYPE.id)
    launched(stocked, clock, settings=allowed)
    with pytest.raises(Forbidden, match=r"quota instances: the limit is 2, 2 are in use"):
        launched(stocked, clock, settings=allowed)
    for event in (Event.TERMINATE, Event.ABSENT):
        first = stocked.database.run(lambda c, i=first, e=event: instances.record(c, i, e, clock.now()))
    launched(stocked, clock, settings=allowed, type_id=GPU_TYPE.id)


def test_servers_whose_clocks_are_a_little_apart_bill_no_second_twice(
    stocked: Stocked, clock: HandClock
) -> None:
    found = launched(stocked, clock)
    ahead, behind = timedelta(seconds=0.5), timedelta(seconds=-0.5)

    def happens(event: Event, apart: timedelta) -> None:
        nonlocal found
        clock.pass_by(0.1)
        at, before = clock.now() + apart, found
        found = stocked.database.run(lambda connection: instances.record(connection, before, event, at))

    happens(Event.REACHABLE, ahead)
    happens(Event.RESTART, ahead)
    happens(Event.REACHABLE, behind)
    happens(Event.STOP, behind)

    def times(connection: Connection) -> list[datetime]:
        rows = connection.execute(select(meters.c.opened_at, meters.c.closed_at).order_by(meters.c.id))
        return [at for row in rows for at in row]

    billed = stocked.database.run(times)
    told = stocked.database.run(lambda c: instances.history(c, found.id, after=0, limit=10))
    assert billed == sorted(billed)
    assert len(billed) == 4
    assert [line.at for line in told] == sorted(line.at for line in told)
    assert found.due_at == clock.now() + behind  # looked at at once by whoever's clock that is
