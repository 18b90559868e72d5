"""The loop against engines that refuse, hang, vanish or stay away, and against clocks that are set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
from sqlalchemy import update
from tests.reconcile.house import NODE, House, settle
from tests.stock import GPU_TYPE, HandClock, Stocked

from tidemill.drivers.contract import Refused, Unreachable, Workload
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.lifecycle import Event, State
from tidemill.model.observation import InstanceId, Phase, Seen
from tidemill.settings import Settings
from tidemill.store import reservations
from tidemill.store.schema import instances as instance_rows


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

    async def ensure_stopped(self, id: InstanceId) -> bool:
        if self.ends_unanswered:
            raise Unreachable(self.ends_unanswered)
        if self.refuses_ends:
            raise Refused(self.refuses_ends)
        return await super().ensure_stopped(id)

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
    assert house.leased_to(id) is None
    driver.observed_well = 10**9
    await house.until_state(loop, id, State.RUNNING, seconds=1, passes=6)


async def test_an_engine_that_never_answers_ends_the_pass(awkward: tuple[House, Awkward]) -> None:
    house, driver = awkward
    house.settings = Settings(driver_patience=0.1)
    loop, id = house.loop(), house.launch()
    driver.hangs = True
    async with asyncio.timeout(60):
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

    async def never_stops(id: InstanceId) -> bool:
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


async def test_a_machine_that_does_not_answer_has_not_stopped_what_runs_on_it(house: House) -> None:
    loop, id = house.loop(), house.launch(type_id=GPU_TYPE.id)
    await house.until_state(loop, id, State.RUNNING)
    house.driver.play_node_lost(NODE.name)
    house.ask(id, Event.STOP)
    for _ in range(5):
        await loop.run_pass()
        await settle(loop)
        house.clock.pass_by(house.settings.beat)
    stopping = house.get(id)
    assert (stopping.state, stopping.reason) == (State.STOPPING, "EngineUnreachable")
    assert len(house.stocked.database.run(lambda c: reservations.devices_of(c, id))) == 1
    house.driver.play_node_back(NODE.name)
    await house.until_state(loop, id, State.STOPPED)


async def test_what_is_hidden_and_takes_its_time_to_end_keeps_its_devices_until_it_has(
    stocked: Stocked, clock: HandClock
) -> None:
    driver = SimulatedDriver(nodes=[NODE], sleep=clock.sleep, now=clock.monotonic)
    house = House(stocked, clock, driver, Settings())
    loop, id = house.loop(), house.launch(type_id=GPU_TYPE.id)
    await house.until_state(loop, id, State.RUNNING)
    house.driver.dials.hides = frozenset({id})
    house.driver.dials.stop_seconds = 20
    house.ask(id, Event.STOP)
    while driver.made[id].seen.phase is not Phase.EXITED:
        assert house.get(id).state is State.STOPPING, "it was taken for gone"
        assert len(house.stocked.database.run(lambda c: reservations.devices_of(c, id))) == 1
        await loop.run_pass()
        await settle(loop)
        house.clock.pass_by(house.settings.beat)
    await house.until_state(loop, id, State.STOPPED)
    await driver.close()
