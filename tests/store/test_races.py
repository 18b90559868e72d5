"""Two servers on one database, at the same instant: what can be had once is had once, and no more is refused.

Each server has its own connections and threads, as two processes have. On PostgreSQL their transactions
really run at the same time; on SQLite they take turns, and the answers are the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, func, select, text
from tests.stock import CPU_TYPE, GPU_TYPE, NODE, REGION, HandClock, Stocked

from tidemill.actions.ask import ask
from tidemill.actions.context import Context
from tidemill.actions.launch import launch
from tidemill.actions.news import News
from tidemill.actions.throttle import Throttle
from tidemill.model.account import Caller, User
from tidemill.model.errors import Conflict, Forbidden, OutOfStock, TooManyAttempts, Unavailable
from tidemill.model.instance import Order
from tidemill.model.lifecycle import Event, State
from tidemill.model.offer import offer_id
from tidemill.settings import Settings
from tidemill.store import instances, launch_keys, nodes, reservations, wallets
from tidemill.store.database import Database
from tidemill.store.nodes import FoundDevice, FoundNode
from tidemill.store.schema import devices, events, login_failures, node_ports
from tidemill.store.schema import instances as rows
from tidemill.store.schema import nodes as node_rows
from tidemill.wake import Wake

T = TypeVar("T")


@dataclass
class Servers:
    """Two servers, and who asks them."""

    stocked: Stocked
    clock: HandClock
    contexts: list[Context]

    def caller(self, user: User | None = None) -> Caller:
        return Caller(user or self.stocked.alice)

    async def launch(self, number: int, *, key: str | None = None, body: bytes = b"{}", **order: Any) -> str:
        made: Order = self.stocked.order(**order)
        return await launch(self.contexts[number % 2], self.caller(), made, key=key, body=body)

    def look(self, work: Any) -> Any:
        return self.stocked.database.run(work)

    def machines(self, count: int, *, gpus: int, cpu: int = 64_000) -> None:
        """The region has these machines and no others."""
        found = [
            FoundNode(
                offer_id("node", f"machine {number}"),
                f"machine-{number}",
                cpu_milli=cpu,
                memory_mb=2**20,
                disk_gb=100,
                devices=tuple(FoundDevice(f"gpu-{index}", "H100", ()) for index in range(gpus)),
            )
            for number in range(count)
        ]

        def work(connection: Connection) -> None:
            nodes.leave_out(connection, nodes.compare(connection, REGION.id, found).gone)
            nodes.register(connection, REGION.id, found)

        self.look(work)


@pytest.fixture
async def servers(stocked: Stocked, database_url: str, clock: HandClock) -> AsyncIterator[Servers]:
    other = Database(database_url)
    contexts = [
        Context(
            database=database,
            clock=clock,
            wake=Wake(),
            settings=Settings(),
            tokens=None,  # type: ignore[arg-type] - nobody logs in
            drivers={},
            news=News(database),
        )
        for database in (stocked.database, other)
    ]
    try:
        yield Servers(stocked, clock, contexts)
        deadlocks = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        if not other.is_sqlite:
            assert other.run(lambda c: c.execute(deadlocks).scalar_one()) == 0
    finally:
        other.close()


def allow(servers: Servers, **settings: Any) -> None:
    servers.contexts = [replace(each, settings=Settings(**settings)) for each in servers.contexts]


async def all_of(calls: Iterable[Awaitable[T]]) -> tuple[list[T], list[BaseException]]:
    """What came of calls that are made together: results, and errors."""
    said = await asyncio.gather(*calls, return_exceptions=True)
    errors = [each for each in said if isinstance(each, BaseException)]
    return [each for each in said if not isinstance(each, BaseException)], errors


def books(connection: Connection) -> None:
    """What is given out is what is held, on every machine."""
    for node in connection.execute(select(node_rows)).all():
        held = connection.execute(
            select(func.count(), func.coalesce(func.sum(rows.c.cpu_milli), 0)).where(
                rows.c.node_id == node.id, rows.c.state != State.RELEASED.value
            )
        ).one()
        assert node.cpu_used == held[1]
        assert 0 <= node.cpu_used <= node.cpu_milli
    for instance in connection.execute(select(rows.c.id, rows.c.gpu_num, rows.c.state)).all():
        owned = connection.execute(
            select(func.count()).select_from(devices).where(devices.c.instance_id == instance.id)
        ).scalar_one()
        assert owned == instance.gpu_num


async def test_no_device_is_given_twice_and_none_is_left(servers: Servers) -> None:
    launched, refused = await all_of(servers.launch(n, type_id=GPU_TYPE.id) for n in range(12))
    assert len(launched) == len(NODE.devices) == 2
    assert {type(error) for error in refused} == {OutOfStock}
    servers.look(books)


async def test_who_loses_a_machine_is_given_another(servers: Servers) -> None:
    """While there is room, nobody hears that there is none."""
    servers.machines(10, gpus=1)
    launched, refused = await all_of(servers.launch(n, type_id=GPU_TYPE.id) for n in range(12))
    assert (len(launched), {type(error) for error in refused}) == (10, {OutOfStock})
    servers.look(books)


async def test_no_more_is_given_out_than_a_machine_has(servers: Servers) -> None:
    servers.machines(2, gpus=0, cpu=5 * CPU_TYPE.cpu_milli)
    launched, refused = await all_of(servers.launch(n) for n in range(14))
    assert (len(launched), {type(error) for error in refused}) == (10, {OutOfStock})
    servers.look(books)


async def test_every_port_of_a_range_is_given_once(servers: Servers) -> None:
    servers.machines(1, gpus=0)
    allow(servers, node_ports="31000-31011")
    launched, refused = await all_of(servers.launch(n, node_ports=(8888,)) for n in range(8))
    assert len(launched) == 6
    assert {(type(error), getattr(error, "code", "")) for error in refused} == {
        (Unavailable, "nodePortsUsedUp")
    }
    given = servers.look(lambda c: list(c.execute(select(node_ports.c.node_port)).scalars()))
    assert sorted(given) == list(range(31_000, 31_012))
    servers.look(books)


async def test_a_quota_holds_whatever_comes_together(servers: Servers) -> None:
    allow(servers, quota_instances=3)
    launched, refused = await all_of(servers.launch(n) for n in range(10))
    assert (len(launched), {type(error) for error in refused}) == (3, {Forbidden})


async def test_one_of_two_who_start_again_gets_the_only_device(servers: Servers) -> None:
    servers.machines(1, gpus=1)
    both: list[str] = []
    for _ in range(2):
        id = await servers.launch(0, type_id=GPU_TYPE.id)
        for event in (Event.STOP, Event.EXITED):
            servers.look(lambda c, e=event, i=id: move(c, i, e, servers.clock))
        both.append(id)
    started, refused = await all_of(
        ask(servers.contexts[n % 2], servers.caller(), id, Event.START) for n, id in enumerate(both * 3)
    )
    assert {type(error) for error in refused} == {OutOfStock}
    assert len(started) == 3, "the winner may ask again"
    holders = servers.look(lambda c: [id for id in both if reservations.devices_of(c, id)])
    assert len(holders) == 1


def move(connection: Connection, id: str, event: Event, clock: HandClock) -> None:
    found = instances.get(connection, id)
    assert found is not None
    instances.record(connection, found, event, clock.now())


async def test_verbs_that_meet_come_to_one_end(servers: Servers) -> None:
    for _ in range(5):
        id = await servers.launch(0)
        for event in (Event.PLACED, Event.REACHABLE):
            servers.look(lambda c, e=event, i=id: move(c, i, e, servers.clock))
        wishes = [Event.STOP, Event.RESTART, Event.TERMINATE] * 4
        _, refused = await all_of(
            ask(servers.contexts[n % 2], servers.caller(), id, event) for n, event in enumerate(wishes)
        )
        assert {type(error) for error in refused} <= {Conflict}, refused
        assert servers.look(lambda c, i=id: instances.get(c, i)).state is State.TERMINATING
        told = servers.look(
            lambda c, i=id: list(
                c.execute(
                    select(events.c.event).where(events.c.instance_id == i).order_by(events.c.seq)
                ).scalars()
            )
        )
        assert told[-1] == "terminate"
        assert told.count("terminate") == 1


@pytest.mark.parametrize("calls", [2, 30])
async def test_one_key_at_the_same_instant_is_one_instance(servers: Servers, calls: int) -> None:
    """Also where only one can be had: the others are not told that there is none."""
    servers.machines(1, gpus=1)
    for round in range(4):
        launched, errors = await all_of(
            servers.launch(n, key=f"key {round}", type_id=GPU_TYPE.id) for n in range(calls)
        )
        assert errors == []
        assert len(launched) == calls
        (id,) = set(launched)
        for event in (Event.TERMINATE, Event.ABSENT):
            servers.look(lambda c, e=event, i=id: move(c, i, e, servers.clock))
    assert servers.look(lambda c: c.execute(select(func.count()).select_from(rows)).scalar_one()) == 4


async def test_one_key_with_two_bodies_is_one_instance_and_a_conflict(servers: Servers) -> None:
    launched, refused = await all_of(
        servers.launch(n, key="one", body=(b"this", b"that")[n // 2 % 2]) for n in range(20)
    )
    assert len(set(launched)) == 1
    assert (len(launched), len(refused)) == (10, 10)
    assert {(type(error), getattr(error, "code", "")) for error in refused} == {
        (Conflict, "idempotencyKeyReused")
    }


async def test_a_key_of_a_launch_that_was_refused_is_free_again(servers: Servers) -> None:
    servers.machines(0, gpus=0)
    for _ in range(2):
        _, refused = await all_of(servers.launch(n, key="early") for n in range(6))
        assert [getattr(error, "code", "") for error in refused] == ["regionUnavailable"] * 6
    servers.machines(1, gpus=0)
    launched, errors = await all_of(servers.launch(n, key="early") for n in range(6))
    assert (len(set(launched)), errors) == (1, [])


async def test_a_key_counts_for_a_day_and_old_ones_do_not_pile_up(servers: Servers) -> None:
    first = await servers.launch(0, key="daily")
    for number in range(5):
        await servers.launch(number, key=f"other {number}")
    servers.clock.pass_by(launch_keys.KEPT.total_seconds())
    assert await servers.launch(1, key="daily") == first
    servers.clock.pass_by(1)
    launched, errors = await all_of(servers.launch(n, key="daily") for n in range(20))
    assert (len(set(launched)), errors) == (1, [])
    assert launched[0] != first
    kept = servers.look(
        lambda c: c.execute(select(func.count()).select_from(launch_keys.launch_keys)).scalar()
    )
    assert kept == 1


async def test_guesses_from_everywhere_are_counted_and_nobody_is_in_the_way(servers: Servers) -> None:
    """With much to sweep away, and every account and address in every order."""
    throttles = [Throttle(each.database, servers.clock, each.settings) for each in servers.contexts]

    async def guess(server: int, account: int, address: int) -> None:
        async with throttles[server].attempt(f"user-{account}", f"192.0.2.{address}"):
            pass

    for _ in range(3):
        _, refused = await all_of(
            guess((account + address) % 2, account, address)
            for account in range(5)
            for address in (range(6) if account % 2 else reversed(range(6)))
        )
        assert {type(error) for error in refused} <= {TooManyAttempts}
        assert servers.look(lambda c: c.execute(select(login_failures)).all())
        servers.clock.pass_by(301)


async def test_two_servers_that_see_the_same_machines_write_them_down_once(servers: Servers) -> None:
    servers.machines(0, gpus=0)
    found = [replace(NODE, id=offer_id("node", f"n{n}"), name=f"n{n}") for n in range(200)]

    async def register(number: int) -> None:
        seen = found if number % 2 else found[::-1]
        seen = [replace(node, cpu_milli=1000 * number) for node in seen]
        await servers.contexts[number % 2].database.write(lambda c: nodes.register(c, REGION.id, seen))

    _, errors = await all_of(register(n) for n in range(8))
    assert errors == []
    there = servers.look(lambda c: list(c.execute(select(node_rows).where(node_rows.c.present)).all()))
    assert len(there) == 200
    assert len({node.cpu_milli for node in there}) == 1, "one of them whole"


async def test_a_look_at_money_that_is_asked_for_during_one_is_not_lost(servers: Servers) -> None:
    """Something begins to cost after a look has read that nothing does, and before that is written down."""
    user_id, now = servers.caller().user.id, servers.clock.now()
    first, second = (context.database for context in servers.contexts)
    begins = Thread(target=lambda: second.run(lambda c: wallets.look_at(c, user_id, now)))

    def look(connection: Connection) -> None:
        wallets.of(connection, user_id)
        begins.start()
        end = time.monotonic() + 3
        waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        while not first.is_sqlite and begins.is_alive() and time.monotonic() < end:
            if connection.execute(waits).scalar_one():
                break
        wallets.looked(connection, user_id, next_look=None, told_hours=None)

    first.run(look)
    begins.join(10)
    assert [each.user_id for each in servers.look(lambda c: wallets.due(c, now, 10))].count(user_id) == 1
