"""A loop on a restored database and an engine that went on: what runs stays, nothing else is started."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.backup.filled import Filled
from tests.backup.test_round_trip import bring_back
from tests.invariants import in_database
from tests.postgres import PostgresServer
from tests.reconcile.house import NODE, House, settle
from tests.stock import GPU_TYPE, REGION, HandClock, Stocked

from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.errors import OutOfStock, Unavailable
from tidemill.model.lifecycle import Event, State
from tidemill.model.observation import Phase
from tidemill.reconcile.loop import Loop
from tidemill.reconcile.nodes import register_nodes
from tidemill.settings import Settings
from tidemill.store import facts, reservations, schema
from tidemill.store.database import Database

# What no other way leads to: a later start than the row had, and devices held by who is not in the database.
BY_A_RESTORE = ("after start 1", "which is no instance")


@dataclass
class Deployment:
    """A house that can be backed up, and restored while its engine goes on."""

    folder: Path
    house: House
    fresh_url: Iterator[str]
    opened: list[Database]

    def back_up(self) -> datetime:
        filled = Filled(
            Settings(
                data_dir=self.folder, database_url=self.house.stocked.database.url.render_as_string(False)
            ),
            self.house.stocked,
            self.house.clock,
            {},
        )
        return filled.back_up(self.folder / "backup").made_at

    async def restore(self, *, later: float = 3600) -> Loop:
        """The loop of a server on the restored database, before its first pass."""
        self.house.clock.pass_by(later)
        url = next(self.fresh_url)
        bring_back(self.folder / "backup", self.folder / secrets.token_hex(4), url, self.house.clock)
        database = Database(url)
        self.opened.append(database)
        stocked = self.house.stocked
        self.house.stocked = Stocked(database, stocked.alice, stocked.bob)
        return self.house.loop()

    async def runs(self, loop: Loop, id: str) -> None:
        await self.house.until_state(loop, id, State.RUNNING)

    async def comes_to_rest(self, loop: Loop) -> None:
        for _ in range(6):
            await loop.run_pass()
            await settle(loop)
            self.house.clock.pass_by(1)
        house = self.house
        found = in_database(house.stocked.database, now=house.clock.now(), settings=house.settings)
        assert [sentence for sentence in found if not sentence.endswith(BY_A_RESTORE)] == []

    def devices(self) -> dict[str, str | None]:
        rows = schema.devices.c
        found = self.house.stocked.database.run(
            lambda c: c.execute(select(rows.device_id, rows.instance_id)).all()
        )
        return {row.device_id: row.instance_id for row in found}

    def meters(self, id: str) -> list[tuple[int, datetime, datetime | None]]:
        rows = schema.meters.c
        statement = select(rows.start, rows.opened_at, rows.closed_at).where(rows.instance_id == id)
        found = self.house.stocked.database.run(lambda c: c.execute(statement.order_by(rows.id)).all())
        return [(row.start, row.opened_at, row.closed_at) for row in found]


@pytest.fixture
async def deployment(
    request: pytest.FixtureRequest, stocked: Stocked, clock: HandClock, tmp_path: Path
) -> AsyncIterator[Deployment]:
    def urls() -> Iterator[str]:
        for number in range(9):
            if stocked.database.is_sqlite:
                yield f"sqlite:///{tmp_path / f'restored-{number}.db'}"
            else:
                postgres: PostgresServer = request.getfixturevalue("postgres")
                yield postgres.new_database(migrated=False)

    driver = SimulatedDriver(nodes=[NODE], sleep=clock.sleep)
    house = House(stocked, clock, driver, Settings())
    opened: list[Database] = []
    yield Deployment(tmp_path, house, urls(), opened)
    await driver.close()
    for database in opened:
        database.close()


async def test_what_runs_as_the_backup_says_is_not_touched(deployment: Deployment) -> None:
    house = deployment.house
    loop, id = house.loop(), house.launch()
    await deployment.runs(loop, id)
    made, opened = replace(house.driver.made[id].seen), deployment.meters(id)
    deployment.back_up()
    loop = await deployment.restore()
    assert house.get(id).restored_from is not None
    await deployment.comes_to_rest(loop)
    now = house.get(id)
    assert (now.state, now.start, now.restored_from, now.reason) == (State.RUNNING, 1, None, "")
    assert house.driver.made[id].seen == made
    assert house.driver.made[id].starts == [1]
    assert deployment.meters(id) == opened, "the same start number: it ran all the time"


async def test_what_was_terminated_since_is_not_made_anew(deployment: Deployment) -> None:
    house = deployment.house
    loop, id = house.loop(), house.launch(type_id=GPU_TYPE.id)
    await deployment.runs(loop, id)
    house.clock.pass_by(100)
    await loop.run_pass()
    made_at = deployment.back_up()
    house.ask(id, Event.TERMINATE)
    await house.until_state(loop, id, State.RELEASED)
    loop = await deployment.restore()
    await deployment.comes_to_rest(loop)
    assert house.driver.made == {}
    ended = house.get(id)
    assert (ended.state, ended.reason) == (State.STOPPED, "LostInRestore")
    assert f"backup of {made_at:%Y-%m-%d %H:%M:%S}" in ended.message
    ((_, opened_at, closed_at),) = deployment.meters(id)
    assert closed_at is not None
    assert opened_at < closed_at <= made_at, "nobody saw it running after the backup"
    assert set(deployment.devices().values()) == {None}
    house.ask(id, Event.START)  # its owner wants it after all
    await deployment.runs(loop, id)
    assert house.get(id).start == 2


async def test_what_was_stopped_since_is_not_started(deployment: Deployment) -> None:
    house = deployment.house
    loop, id = house.loop(), house.launch()
    await deployment.runs(loop, id)
    deployment.back_up()
    house.ask(id, Event.STOP)
    await house.until_state(loop, id, State.STOPPED)
    loop = await deployment.restore()
    await deployment.comes_to_rest(loop)
    assert (house.get(id).state, house.get(id).reason) == (State.STOPPED, "LostInRestore")
    assert "found not running" in house.get(id).message
    assert house.driver.made[id].seen.phase is Phase.EXITED


async def test_what_was_restarted_since_is_adopted_in_its_later_start(deployment: Deployment) -> None:
    house = deployment.house
    loop, id = house.loop(), house.launch()
    await deployment.runs(loop, id)
    made_at = deployment.back_up()
    for start in (2, 3):
        house.clock.pass_by(50)
        house.ask(id, Event.RESTART)
        await house.until(loop, lambda start=start: house.get(id).start == start)  # type: ignore[misc]
        await deployment.runs(loop, id)
    loop = await deployment.restore()
    back_at = house.clock.now()
    await deployment.comes_to_rest(loop)
    assert (house.get(id).state, house.get(id).start) == (State.RUNNING, 3)
    assert house.driver.made[id].starts == [1, 2, 3], "not started again"
    assert "adopted" in house.events(id)
    (first, second) = deployment.meters(id)
    assert first[2] is not None
    assert first[2] <= made_at
    assert second[0] == 3
    assert second[1] >= back_at
    house.ask(id, Event.RESTART)
    await house.until(loop, lambda: house.driver.made[id].starts == [1, 2, 3, 4])


@pytest.mark.parametrize("stopped_again", [False, True])
async def test_what_was_started_since_goes_on(deployment: Deployment, stopped_again: bool) -> None:
    house = deployment.house
    loop, id = house.loop(), house.launch(type_id=GPU_TYPE.id)
    await deployment.runs(loop, id)
    house.ask(id, Event.STOP)
    await house.until_state(loop, id, State.STOPPED)
    deployment.back_up()
    house.ask(id, Event.START)
    await deployment.runs(loop, id)
    if stopped_again:
        house.ask(id, Event.STOP)
        await house.until_state(loop, id, State.STOPPED)
    loop = await deployment.restore()
    await deployment.comes_to_rest(loop)
    assert house.get(id).start == 2
    if stopped_again:
        assert house.get(id).state is State.STOPPED
        assert "startFound" in house.events(id)
        house.ask(id, Event.START)
    await deployment.runs(loop, id)
    assert house.driver.made[id].starts == ([1, 2, 3] if stopped_again else [1, 2])
    assert [device for device, holder in deployment.devices().items() if holder == id] != []


async def test_a_stopped_instance_that_is_gone_says_so(deployment: Deployment) -> None:
    house = deployment.house
    loop, id = house.loop(), house.launch()
    await deployment.runs(loop, id)
    house.ask(id, Event.STOP)
    await house.until_state(loop, id, State.STOPPED)
    deployment.back_up()
    house.ask(id, Event.TERMINATE)
    await house.until_state(loop, id, State.RELEASED)
    loop = await deployment.restore()
    await deployment.comes_to_rest(loop)
    assert (house.get(id).state, house.get(id).reason) == (State.STOPPED, "LostInRestore")


async def test_a_launch_that_was_under_way_is_found_or_ends(deployment: Deployment) -> None:
    house = deployment.house
    loop, came_up, never = house.loop(), house.launch(), house.launch()
    deployment.back_up()
    await deployment.runs(loop, came_up)
    house.ask(never, Event.TERMINATE)
    await house.until_state(loop, never, State.RELEASED)
    loop = await deployment.restore(later=100_000)
    await deployment.comes_to_rest(loop)
    assert house.get(came_up).state is State.RUNNING
    assert house.driver.made[came_up].starts == [1]
    assert (house.get(never).state, house.get(never).reason) == (State.STOPPED, "LostInRestore")


async def test_what_the_backup_does_not_know_is_left_alone_and_holds_its_device(
    deployment: Deployment,
) -> None:
    house = deployment.house
    loop, old = house.loop(), house.launch(type_id=GPU_TYPE.id)
    await deployment.runs(loop, old)
    deployment.back_up()
    # What the backup gives to one is the other's by now, and the other way round.
    house.ask(old, Event.TERMINATE)
    await house.until_state(loop, old, State.RELEASED)
    new = house.launch(type_id=GPU_TYPE.id)
    await deployment.runs(loop, new)
    (held,) = (device for device, holder in deployment.devices().items() if holder == new)
    loop = await deployment.restore()
    await deployment.comes_to_rest(loop)
    for _ in range(5):
        house.clock.pass_by(house.settings.full_pass + house.settings.orphan_grace)
        await deployment.comes_to_rest(loop)
    assert list(house.driver.made) == [new], "it is reported, not removed"
    assert deployment.devices()[held] == new
    third = house.launch(type_id=GPU_TYPE.id)
    await deployment.runs(loop, third)
    assert house.driver.made[third].workload.devices[0].id != held
    with pytest.raises(OutOfStock):
        house.launch(type_id=GPU_TYPE.id)
    house.driver.play_vanish(new)  # the operator removed it
    house.clock.pass_by(house.settings.full_pass + 1)
    await deployment.comes_to_rest(loop)
    assert deployment.devices()[held] is None


async def test_devices_that_changed_hands_since_are_held_by_who_has_them(deployment: Deployment) -> None:
    house = deployment.house
    loop = house.loop()
    one, two = house.launch(type_id=GPU_TYPE.id), house.launch(type_id=GPU_TYPE.id)
    await deployment.runs(loop, one)
    await deployment.runs(loop, two)
    before = deployment.devices()
    deployment.back_up()
    for id in (one, two):
        house.ask(id, Event.STOP)
        await house.until_state(loop, id, State.STOPPED)
    for id in sorted((one, two), key=lambda id: next(d for d, h in before.items() if h == id), reverse=True):
        house.ask(id, Event.START)  # in the other order: each gets the other's
        await deployment.runs(loop, id)
    after = deployment.devices()
    assert after == {device: one if holder == two else two for device, holder in before.items()}
    loop = await deployment.restore()
    await deployment.comes_to_rest(loop)
    assert deployment.devices() == after


async def test_nothing_is_given_out_before_the_machine_was_looked_at(deployment: Deployment) -> None:
    house = deployment.house
    loop, id = house.loop(), house.launch()
    await deployment.runs(loop, id)
    house.ask(id, Event.STOP)
    await house.until_state(loop, id, State.STOPPED)
    deployment.back_up()
    loop = await deployment.restore()
    with pytest.raises(Unavailable, match="No machine of the region"):
        house.launch()
    with pytest.raises(OutOfStock):
        house.ask(id, Event.START)
    await register_nodes(house.stocked.database, house.settings, REGION.id, house.driver)
    house.launch()


async def test_a_silent_engine_after_a_restore_starts_and_stops_nothing(deployment: Deployment) -> None:
    house = deployment.house
    loop, id = house.loop(), house.launch()
    await deployment.runs(loop, id)
    deployment.back_up()
    house.driver.dials.unreachable = "the engine is down"
    loop = await deployment.restore()
    for _ in range(10):
        await loop.run_pass()
        await settle(loop)
        house.clock.pass_by(100)
    assert house.get(id).restored_from is not None
    with pytest.raises(Unavailable, match="has not found this instance yet"):
        house.ask(id, Event.RESTART)
    house.driver.dials.unreachable = ""
    house.driver.play_vanish(id)
    await house.until_state(loop, id, State.STOPPED, seconds=5)
    assert house.driver.made == {}


async def test_a_backup_of_a_restored_database_keeps_what_is_not_settled(deployment: Deployment) -> None:
    """A second restore before the first was compared with the engine: the older instant counts."""
    house = deployment.house
    loop, id = house.loop(), house.launch()
    await deployment.runs(loop, id)
    made_at = deployment.back_up()
    await deployment.restore()
    (deployment.folder / "backup").unlink()
    deployment.back_up()
    await deployment.restore()
    assert house.get(id).restored_from == made_at
    assert house.stocked.database.run(lambda c: facts.get(c, facts.RESTORED_AT)) is not None


async def test_what_vanishes_long_after_a_restore_is_made_anew_as_ever(deployment: Deployment) -> None:
    house = deployment.house
    loop, id = house.loop(), house.launch()
    await deployment.runs(loop, id)
    deployment.back_up()
    loop = await deployment.restore()
    await deployment.comes_to_rest(loop)
    house.driver.play_vanish(id)
    loop._hinted = True
    await house.until(loop, lambda: house.get(id).start == 2 and house.get(id).state is State.RUNNING)


async def test_the_room_of_what_is_adopted_counts_though_it_is_more_than_there_is(
    deployment: Deployment,
) -> None:
    """The rows of the backup fill the machine with others; what runs cannot be refused."""
    house = deployment.house
    loop = house.loop()
    ids = [house.launch() for _ in range(8)]  # 8 cores
    for id in ids:
        await deployment.runs(loop, id)
    house.ask(ids[0], Event.STOP)
    await house.until_state(loop, ids[0], State.STOPPED)
    other = house.launch()
    await deployment.runs(loop, other)
    deployment.back_up()
    house.ask(other, Event.TERMINATE)
    await house.until_state(loop, other, State.RELEASED)
    house.ask(ids[0], Event.START)
    await deployment.runs(loop, ids[0])
    loop = await deployment.restore()
    await deployment.comes_to_rest(loop)
    assert house.get(ids[0]).state is State.RUNNING
    assert house.get(other).state is State.STOPPED
    nodes = schema.nodes.c
    used = house.stocked.database.run(lambda c: c.execute(select(nodes.cpu_used)).scalar_one())
    assert used == 8000
    assert house.stocked.database.run(lambda c: reservations.rooms(c, ""))
