"""The loop against the simulated engine and a real database: every way an instance can go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import pytest
from sqlalchemy import update
from tests.stock import GPU_TYPE, REGION, HandClock, Stocked

from tidemill.actions.launch import _accept
from tidemill.drivers.contract import Device, Node, Refused, Unreachable, Workload
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import Event, State
from tidemill.model.observation import InstanceId, Phase, Seen
from tidemill.reconcile.loop import Loop
from tidemill.settings import Settings
from tidemill.store import instances, reservations
from tidemill.store.schema import instances as instance_rows
from tidemill.wake import Wake

NODE = Node(
    "node-0", cpu=8, memory_mb=16896, disk_gb=100, devices=(Device("gpu-0", "H100"), Device("gpu-1", "H100"))
)


@dataclass
class House:
    """One server's loop, driven pass by pass."""

    stocked: Stocked
    clock: HandClock
    driver: SimulatedDriver
    settings: Settings
    loops: list[Loop] = field(default_factory=list)

    def loop(self) -> Loop:
        made = Loop(
            database=self.stocked.database,
            clock=self.clock,
            wake=Wake(),
            settings=self.settings,
            region_id=REGION.id,
            driver=self.driver,
            owner=f"server-{len(self.loops)}",
        )
        self.loops.append(made)
        return made

    def launch(self, **order: object) -> str:
        return self.stocked.database.run(
            lambda connection: _accept(
                connection,
                self.settings,
                self.stocked.alice.id,
                self.stocked.order(**order),
                self.clock.now(),
            )
        ).id

    def ask(self, id: str, event: Event) -> None:
        self.stocked.database.run(lambda c: instances.record(c, self.get(id, c), event, self.clock.now()))

    def get(self, id: str, connection: object = None) -> Instance:
        def work(c: object) -> Instance:
            found = instances.get(c, id)  # type: ignore[arg-type]
            assert found is not None
            return found

        return work(connection) if connection is not None else self.stocked.database.run(work)

    async def until(
        self, loop: Loop, right: Callable[[], bool], *, seconds: float = 0.5, passes: int = 40
    ) -> None:
        """Pass after pass, the clock moving between, until it is right; a bounded number of passes."""
        for _ in range(passes):
            await loop.run_pass()
            await settle(loop)
            if right():
                return
            self.clock.pass_by(seconds)
        pytest.fail("not within the passes allowed: " + repr([self.get(i) for i in self.driver.made]))

    async def until_state(self, loop: Loop, id: str, state: State, **how: float) -> Instance:
        await self.until(loop, lambda: self.get(id).state is state, **how)  # type: ignore[arg-type]
        return self.get(id)

    def events(self, id: str) -> list[str]:
        found = self.stocked.database.run(lambda c: instances.history(c, id, after=0, limit=1000))
        return [line.event for line in found]


async def settle(loop: Loop) -> None:
    while loop._working:
        await asyncio.gather(*loop._working.values())


@pytest.fixture
async def house(stocked: Stocked, clock: HandClock) -> AsyncIterator[House]:
    driver = SimulatedDriver(nodes=[NODE], sleep=clock.sleep)
    yield House(stocked, clock, driver, Settings())
    await driver.close()


async def test_a_launch_runs_stops_starts_and_ends(house: House) -> None:
    loop, id = house.loop(), house.launch(type_id=GPU_TYPE.id)
    running = await house.until_state(loop, id, State.RUNNING)
    assert running.started_at is not None
    assert running.due_at is None
    assert running.lease_until is None
    house.ask(id, Event.STOP)
    await house.until_state(loop, id, State.STOPPED)
    assert house.driver.made[id].seen.phase is Phase.EXITED
    house.ask(id, Event.START)
    assert (await house.until_state(loop, id, State.RUNNING)).start == 2
    house.ask(id, Event.RESTART)
    assert (await house.until_state(loop, id, State.RUNNING)).start == 3
    house.ask(id, Event.TERMINATE)
    released = await house.until_state(loop, id, State.RELEASED)
    assert released.due_at is None
    assert house.driver.made == {}
    happened = "launch running stop exited start running restart running terminate absent"
    assert house.events(id) == happened.split()


async def test_a_process_that_dies_is_started_again_with_a_growing_pause(house: House) -> None:
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    pauses = []
    for _ in range(4):
        house.driver.play_exit(id, 137)
        loop._hinted = True
        await loop.run_pass()
        await settle(loop)
        died = house.get(id)
        assert died.state is State.RESTARTING
        assert "exit code 137" in died.message
        assert died.not_before is not None
        pauses.append((died.not_before - house.clock.now()).total_seconds())
        assert house.driver.made[id].seen.phase is Phase.EXITED, "not before its pause is over"
        await house.until_state(loop, id, State.RUNNING)
    assert pauses == [1, 2, 4, 8]


async def test_what_vanished_is_made_anew_and_says_what_was_lost(house: House) -> None:
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    house.driver.play_vanish(id)
    loop._hinted = True
    await house.until(loop, lambda: id in house.driver.made and house.get(id).state is State.RUNNING)
    history = house.stocked.database.run(lambda c: instances.history(c, id, after=0, limit=100))
    assert any("system disk is lost" in line.message for line in history)


async def test_a_new_server_finishes_what_the_old_one_began(house: House) -> None:
    """The first server claims, does the work in the engine, and dies before it writes that down."""
    id = house.launch()
    house.driver.dials.loses_answer = True
    first = house.loop()
    await first.run_pass()
    await settle(first)
    assert house.get(id).state is State.INITIALIZING
    assert house.get(id).reason == "EngineUnreachable"
    house.driver.dials.loses_answer = False
    await house.until_state(house.loop(), id, State.RUNNING)
    assert house.driver.made[id].starts == [1]
    assert house.get(id).reason == ""


async def test_a_lease_of_a_dead_server_runs_out(house: House) -> None:
    id = house.launch()
    dead = house.loop()
    await dead._claim(set())
    alive = house.loop()
    await alive.run_pass()
    assert house.get(id).state is State.INITIALIZING
    house.clock.pass_by(house.settings.lease + 1)
    await house.until_state(alive, id, State.RUNNING)


async def test_a_clock_that_steps_back_an_hour_holds_nobody_up(house: House) -> None:
    loop = house.loop()
    first = house.launch()
    await house.until_state(loop, first, State.RUNNING)
    house.clock.set_back(3600)
    second = house.launch()
    house.ask(first, Event.STOP)
    await house.until_state(loop, second, State.RUNNING)
    await house.until_state(loop, first, State.STOPPED)
    # what was due in what is now the future is found by the next full pass
    house.clock.pass_by(3600)
    third = house.launch()
    house.clock.set_back(3600)
    await house.until_state(loop, third, State.RUNNING, seconds=10)


async def test_a_lease_from_before_the_clock_stepped_back_is_over(house: House) -> None:
    id = house.launch()
    dead = house.loop()
    await dead._claim(set())
    house.clock.set_back(3600)
    await house.until_state(house.loop(), id, State.RUNNING, seconds=1, passes=3)


async def test_an_engine_without_an_answer_is_no_absence(house: House) -> None:
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    house.driver.dials.unreachable = "the engine is down"
    loop._hinted = True
    for _ in range(5):
        await loop.run_pass()
        await settle(loop)
        house.clock.pass_by(61)
    assert house.get(id).state is State.RUNNING
    house.ask(id, Event.STOP)
    await loop.run_pass()
    assert house.get(id).state is State.STOPPING
    house.driver.dials.unreachable = ""
    await house.until_state(loop, id, State.STOPPED)


async def test_refused_and_no_room_fail_with_the_engines_words_and_free_the_device(house: House) -> None:
    for dial, state in (("refuses", "Refused"), ("no_room", "NoRoom")):
        setattr(house.driver.dials, dial, "the image has no config")
        loop, id = house.loop(), house.launch(type_id=GPU_TYPE.id)
        failed = await house.until_state(loop, id, State.INITIALIZATION_FAILED)
        assert (failed.reason, failed.message) == (state, "the image has no config")
        await loop.run_pass()
        await settle(loop)
        setattr(house.driver.dials, dial, "")
        # both devices can be given out again
        others = [house.launch(type_id=GPU_TYPE.id) for _ in range(2)]
        for other in (*others, id):
            house.ask(other, Event.TERMINATE)
            await house.until_state(loop, other, State.RELEASED)


async def test_what_never_answers_is_overdue_stopped_and_frees_its_device(house: House) -> None:
    house.driver.dials.never = True
    loop, id = house.loop(), house.launch(type_id=GPU_TYPE.id)
    failed = await house.until_state(loop, id, State.STARTING_FAILED, seconds=20)
    assert "ssh server did not answer within 300 s" in failed.message
    await house.until(loop, lambda: house.driver.made[id].seen.phase is Phase.EXITED)
    await house.until(loop, lambda: house.get(id).due_at is None)
    house.driver.dials.never = False
    others = [house.launch(type_id=GPU_TYPE.id) for _ in range(2)]
    for other in others:
        await house.until_state(loop, other, State.RUNNING)


async def test_a_terminate_in_the_middle_of_anything_ends(house: House) -> None:
    house.driver.dials.never = True
    loop = house.loop()
    for passes in range(5):
        id = house.launch()
        for _ in range(passes):
            await loop.run_pass()
            await settle(loop)
        house.ask(id, Event.TERMINATE)
        house.ask(id, Event.TERMINATE)
        await house.until_state(loop, id, State.RELEASED)
    assert house.driver.made == {}


async def test_an_orphan_is_removed_after_its_grace(house: House) -> None:
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    house.driver.made["notebook-of-nobody"] = house.driver.made[id]
    house.clock.pass_by(61)
    await loop.run_pass()
    assert "notebook-of-nobody" in house.driver.made
    house.clock.pass_by(61)
    await loop.run_pass()
    await settle(loop)
    assert set(house.driver.made) == {id}
    assert house.get(id).state is State.RUNNING


async def test_keys_added_later_reach_a_running_instance(house: House) -> None:
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    house.stocked.database.run(
        lambda c: instances.touch_for_user(c, house.stocked.alice.id, house.clock.now())
    )
    before = house.driver.made[id].workload
    await house.until(loop, lambda: house.get(id).applied_revision == 1)
    assert house.driver.made[id].workload is not before
    assert house.driver.made[id].starts == [1]


async def test_two_servers_share_the_work_and_start_everything_once(house: House) -> None:
    ids = [house.launch(type_id=GPU_TYPE.id) for _ in range(2)] + [house.launch() for _ in range(4)]
    loops = [house.loop(), house.loop()]
    for _ in range(30):
        await asyncio.gather(*(loop.run_pass() for loop in loops))
        for loop in loops:
            await settle(loop)
        house.clock.pass_by(1)
    assert {house.get(id).state for id in ids} == {State.RUNNING}
    assert {tuple(made.starts) for made in house.driver.made.values()} == {(1,)}


async def test_the_running_loop_is_woken_by_the_engine_and_stops_when_told(house: House) -> None:
    loop, id = house.loop(), house.launch()
    task = asyncio.create_task(loop.run())
    async with asyncio.timeout(10):
        while house.get(id).state is not State.RUNNING:
            await asyncio.sleep(0.01)
        house.driver.play_exit(id)
        while house.get(id).state is State.RUNNING:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.get(id).lease_until is None


class Awkward(SimulatedDriver):
    """What an engine may do besides the dials: refuse to end something, hang, or be cut off."""

    refuses_ends = ""
    ends_unanswered = ""
    hangs = False
    cut_off = False
    observed_well = 10**9  # how many more listings succeed

    async def observe(self) -> Mapping[InstanceId, Seen]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.observed_well <= 0:
            raise Unreachable("cut off")
        self.observed_well -= 1
        return await super().observe()

    async def ensure_running(self, workload: Workload) -> None:
        if self.cut_off:
            raise asyncio.CancelledError
        await super().ensure_running(workload)

    async def ensure_stopped(self, id: InstanceId) -> None:
        if self.ends_unanswered:
            raise Unreachable(self.ends_unanswered)
        if self.refuses_ends:
            raise Refused(self.refuses_ends)
        await super().ensure_stopped(id)

    async def ensure_absent(self, id: InstanceId) -> None:
        if self.refuses_ends:
            raise Refused(self.refuses_ends)
        await super().ensure_absent(id)


@pytest.fixture
async def awkward(stocked: Stocked, clock: HandClock) -> AsyncIterator[tuple[House, Awkward]]:
    driver = Awkward(nodes=[NODE], sleep=clock.sleep)
    yield House(stocked, clock, driver, Settings()), driver
    await driver.close()


async def test_an_engine_that_refuses_to_remove_is_asked_at_the_beat(awkward: tuple[House, Awkward]) -> None:
    house, driver = awkward
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    driver.refuses_ends = "device or resource busy"
    house.ask(id, Event.TERMINATE)
    await loop.run_pass()
    await settle(loop)
    left = house.get(id)
    assert (left.state, left.reason, left.message) == (
        State.TERMINATING,
        "Refused",
        "device or resource busy",
    )
    assert left.due_at is not None
    assert (left.due_at - house.clock.now()).total_seconds() == house.settings.beat
    driver.refuses_ends = ""
    await house.until_state(loop, id, State.RELEASED)


async def test_a_failed_one_that_the_engine_will_not_stop_is_not_forgotten(
    awkward: tuple[House, Awkward],
) -> None:
    house, driver = awkward
    driver.refuses_ends = driver.dials.refuses = "no"
    loop, id = house.loop(), house.launch(type_id=GPU_TYPE.id)
    await house.until_state(loop, id, State.INITIALIZATION_FAILED)
    for _ in range(3):
        await loop.run_pass()
        await settle(loop)
    driver.refuses_ends = driver.dials.refuses = ""

    def held() -> int:
        return len(house.stocked.database.run(lambda c: reservations.devices_of(c, id)))

    assert held() == 1
    await house.until(loop, lambda: held() == 0)


async def test_why_it_failed_is_still_said_after_trouble_with_freeing_what_it_held(
    awkward: tuple[House, Awkward],
) -> None:
    house, driver = awkward
    for trouble, ends in (("", "busy"), ("away", "")):
        driver.dials.refuses = "the image has no config"
        driver.refuses_ends = ends
        loop, id = house.loop(), house.launch()
        await house.until_state(loop, id, State.INITIALIZATION_FAILED)
        driver.ends_unanswered = trouble
        for _ in range(3):
            house.clock.pass_by(house.settings.beat)
            await loop.run_pass()
            await settle(loop)
        driver.refuses_ends = driver.ends_unanswered = driver.dials.refuses = ""
        await house.until(loop, lambda id=id: house.get(id).due_at is None)
        assert (house.get(id).reason, house.get(id).message) == ("Refused", "the image has no config")


async def test_a_call_that_is_cut_off_blocks_neither_its_instance_nor_the_loop(
    awkward: tuple[House, Awkward],
) -> None:
    house, driver = awkward
    driver.cut_off = True
    loop, id = house.loop(), house.launch()
    await loop.run_pass()
    await asyncio.gather(*loop._working.values(), return_exceptions=True)
    assert loop._working == {}
    driver.cut_off = False
    await house.until_state(loop, id, State.RUNNING, seconds=5)


async def test_what_was_claimed_is_given_back_when_the_engine_is_lost(
    awkward: tuple[House, Awkward],
) -> None:
    """An engine that answers no listing after the claim does not hold things up for a whole lease."""
    house, driver = awkward
    loop, id = house.loop(), house.launch()
    driver.observed_well = 1
    await loop.run_pass()
    assert house.get(id).state is State.INITIALIZING
    assert house.get(id).lease_until is None
    driver.observed_well = 10**9
    await house.until_state(loop, id, State.RUNNING, seconds=1, passes=6)


async def test_an_engine_that_never_answers_ends_the_pass(awkward: tuple[House, Awkward]) -> None:
    house, driver = awkward
    house.settings = Settings(lease=0.1)
    loop, id = house.loop(), house.launch()
    driver.hangs = True
    async with asyncio.timeout(10):
        await loop.run_pass()
    driver.hangs = False
    await house.until_state(loop, id, State.RUNNING)


async def test_another_regions_instances_are_no_orphans(house: House) -> None:
    """Renaming a region in tidemill.toml must not destroy what runs in it."""
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    house.stocked.database.run(
        lambda c: c.execute(update(instance_rows).values(region_id="0f5a2c1e-0000-4000-8000-00000000000f"))
    )
    for _ in range(4):
        house.clock.pass_by(61)
        await loop.run_pass()
        await settle(loop)
    assert set(house.driver.made) == {id}


async def test_a_clock_that_steps_back_does_not_hold_up_what_needs_nothing_of_the_engine(
    house: House,
) -> None:
    """Asked to stop before it was ever made: no listing shows a change, and its due time is far away."""
    house.driver.dials.unreachable = "the engine is down"
    loop, id = house.loop(), house.launch()
    await loop.run_pass()
    house.ask(id, Event.STOP)
    house.clock.set_back(3600)
    house.driver.dials.unreachable = ""
    await house.until_state(loop, id, State.STOPPED, seconds=10)


async def test_a_clock_that_steps_back_does_not_put_a_deadline_off(house: House) -> None:
    house.driver.dials.never = True
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.STARTING)
    house.clock.set_back(3600)
    await house.until_state(loop, id, State.STARTING_FAILED, seconds=20, passes=30)


async def test_a_clock_that_steps_back_does_not_stretch_a_pause(house: House) -> None:
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    house.driver.play_exit(id)
    loop._hinted = True
    await loop.run_pass()
    await settle(loop)
    assert house.get(id).state is State.RESTARTING
    house.clock.set_back(3600)
    await house.until_state(loop, id, State.RUNNING, seconds=10)


async def test_an_overdue_end_is_told_once(house: House) -> None:
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    house.ask(id, Event.STOP)

    async def never_stops(id: InstanceId) -> None:
        raise Unreachable("no answer")

    house.driver.ensure_stopped = never_stops  # type: ignore[method-assign]
    for _ in range(100):
        await loop.run_pass()
        await settle(loop)
        house.clock.pass_by(5)
    assert house.events(id).count("overdue") == 1
    assert house.get(id).reason == "Overdue"


async def test_an_engine_that_was_away_for_long_costs_nobody_the_launch(house: House) -> None:
    house.driver.dials.unreachable = "the engine is down"
    loop, id = house.loop(), house.launch()
    for _ in range(5):
        await loop.run_pass()
        await settle(loop)
        house.clock.pass_by(200)
    waiting = house.get(id)
    assert (waiting.state, waiting.reason) == (State.INITIALIZING, "EngineUnreachable")
    house.driver.dials.unreachable = ""
    running = await house.until_state(loop, id, State.RUNNING)
    assert running.reason == ""
    assert "overdue" not in house.events(id)


async def test_a_clock_that_steps_forward_makes_nobody_overdue(house: House) -> None:
    house.driver.dials.never = True
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.STARTING)
    house.clock.set_back(-3600)
    for _ in range(5):
        await loop.run_pass()
        await settle(loop)
        house.clock.pass_by(2)
    assert house.get(id).state is State.STARTING
    await house.until_state(loop, id, State.STARTING_FAILED, seconds=20)
