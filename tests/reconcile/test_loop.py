"""The loop against the simulated engine and a real database: every way an instance can go."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

import pytest
from sqlalchemy import update
from tests.reconcile.house import House, settle
from tests.stock import GPU_TYPE

from tidemill.model.instance import Instance
from tidemill.model.lifecycle import Event, State
from tidemill.model.observation import Phase
from tidemill.reconcile.claims import Claims
from tidemill.store import fleet, instances
from tidemill.store.schema import instances as rows


async def test_a_launch_runs_stops_starts_and_ends(house: House) -> None:
    loop, id = house.loop(), house.launch(type_id=GPU_TYPE.id)
    running = await house.until_state(loop, id, State.RUNNING)
    assert running.started_at is not None
    assert running.due_at is None
    assert house.leased_to(id) is None
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


async def test_a_starting_server_takes_only_what_is_not_as_it_should_be(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With very many that run as they should, taking each of them keeps it from those that do not."""
    first = house.loop()
    ids = [house.launch() for _ in range(6)]
    for id in ids:
        await house.until_state(first, id, State.RUNNING)
    house.ask(ids[0], Event.STOP)
    await house.until_state(first, ids[0], State.STOPPED)
    await first.run_pass()
    house.driver.play_exit(ids[1])
    house.driver.play_vanish(ids[2])
    before = {id: house.get(id) for id in ids}
    taken: list[set[str]] = []
    take = Claims.take

    async def spy(claims: Claims, named: Collection[str], owner: str, most: int) -> list[Instance]:
        found = await take(claims, named, owner, most)
        taken.append({instance.id for instance in found})
        return found

    monkeypatch.setattr(Claims, "take", spy)
    second = house.loop()
    await house.until(second, lambda: all(house.get(id).state is State.RUNNING for id in ids[1:3]))
    assert taken[0] == set(ids[1:3])
    assert set().union(*taken) == set(ids[1:3])
    rest = [id for id in ids if id not in ids[1:3]]
    assert {id: house.get(id) for id in rest} == {id: before[id] for id in rest}
    # What was left alone is known: when the engine announces something, a change alone is noticed.
    taken.clear()
    house.driver.play_exit(ids[3])
    second._hinted = True
    await house.until(second, lambda: house.get(ids[3]).start == 2)
    assert set().union(*taken) == {ids[3]}


async def test_a_lease_of_a_dead_server_runs_out(house: House) -> None:
    id = house.launch()
    dead = await dies_at_work(house)
    alive = house.loop()
    for _ in range(8):
        await alive.run_pass()
        assert house.leased_to(id) == dead
        house.clock.pass_by(house.settings.lease / 8)
    await house.until_state(alive, id, State.RUNNING, passes=8)


async def dies_at_work(house: House) -> str:
    """A server that took its leases and was never heard of again; whom they name."""
    loop = house.loop()
    await loop._presence.keep()
    assert await loop._claims.take((), loop._presence.id, 8)
    return loop._presence.id


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


async def test_what_is_released_and_due_in_what_is_now_the_future_is_settled(house: House) -> None:
    """The answer to its last move was lost, and the clock stepped back before it was looked at again."""
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.RUNNING)
    house.ask(id, Event.TERMINATE)
    await house.until_state(loop, id, State.RELEASED)
    house.stocked.database.run(lambda c: c.execute(update(rows).values(due_at=house.clock.now())))
    house.clock.set_back(3600)
    await house.until(loop, lambda: house.get(id).due_at is None, seconds=10)


async def test_a_lease_from_before_the_clock_stepped_back_is_over(house: House) -> None:
    id = house.launch()
    await dies_at_work(house)
    house.clock.set_back(3600)
    await house.until_state(house.loop(), id, State.RUNNING, seconds=1, passes=9)


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
    workload = replace(house.driver.made[id].workload, id="notebook-of-nobody", ports=())
    house.driver.play_stray(workload)
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
    house.stocked.database.run(lambda c: fleet.touch_for_user(c, house.stocked.alice.id, house.clock.now()))
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
    async with asyncio.timeout(60):
        while house.get(id).state is not State.RUNNING:
            await asyncio.sleep(0.01)
        house.driver.play_exit(id)
        while house.get(id).start == 1:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.leased_to(id) is None
