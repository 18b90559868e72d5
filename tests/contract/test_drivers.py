"""The rules of the driver contract, the same for every driver."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.contract.conftest import DEVICES, Stage
from tests.drivers.docker.world import SECONDS, is_phase, is_reachable, until

from tidemill.drivers.contract import Driver, Logs, Unreachable
from tidemill.model.observation import Phase, Seen


async def test_nothing_found_is_an_answer(driver: Driver) -> None:
    assert dict(await driver.observe()) == {}


async def test_it_knows_its_nodes(driver: Driver) -> None:
    nodes = await driver.nodes()
    assert nodes
    assert all(node.name and node.cpu > 0 and node.memory_mb > 0 and node.disk_gb > 0 for node in nodes)


async def test_what_is_asked_for_becomes_reachable(stage: Stage, driver: Driver) -> None:
    workload = stage.workload()
    await driver.ensure_running(workload)
    on_the_way: list[Seen | None] = []
    await until(driver, workload.id, is_reachable(1), ask=workload, seen_on_the_way=on_the_way)
    assert all(seen is None or seen.start == 1 for seen in on_the_way)
    assert list(await driver.observe()) == [workload.id]


async def test_asking_again_is_success_and_changes_nothing(stage: Stage, driver: Driver) -> None:
    workload = stage.workload()
    await asyncio.gather(*(driver.ensure_running(workload) for _ in range(4)))
    await until(driver, workload.id, is_reachable(1), ask=workload)
    for _ in range(3):
        await driver.ensure_running(workload)
    assert is_reachable(1)((await driver.observe())[workload.id])


async def test_a_call_cut_short_can_be_repeated(stage: Stage, driver: Driver) -> None:
    for pause in (0.0, 0.001, 0.01, 0.05, 0.2):
        workload = stage.workload()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await driver.ensure_running(workload)
        await until(driver, workload.id, is_reachable(1), ask=workload)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await driver.ensure_absent(workload.id)
        await driver.ensure_absent(workload.id)
        assert workload.id not in await driver.observe()


async def test_a_higher_start_number_restarts(stage: Stage, driver: Driver) -> None:
    workload = stage.workload()
    await until(driver, workload.id, is_reachable(1), ask=workload)
    on_the_way: list[Seen | None] = []
    second = replace(workload, start=2)
    await until(driver, workload.id, is_reachable(2), ask=second, seen_on_the_way=on_the_way)
    ended = [seen for seen in on_the_way if seen is not None and seen.phase is Phase.EXITED]
    assert all(seen.start == 1 for seen in ended), "the end of the first start was taken for the second's"


async def test_an_older_start_number_changes_nothing(stage: Stage, driver: Driver) -> None:
    workload = stage.workload()
    await until(driver, workload.id, is_reachable(1), ask=workload)
    await until(driver, workload.id, is_reachable(5), ask=replace(workload, start=5))
    await driver.ensure_running(workload)
    assert is_reachable(5)((await driver.observe())[workload.id])


async def test_keys_change_while_it_runs_and_older_ones_do_not_come_back(
    stage: Stage, driver: Driver
) -> None:
    first, second = "ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"
    workload = stage.workload(authorized_keys=(first,), revision=3)
    await until(driver, workload.id, is_reachable(1), ask=workload)
    assert stage.lets_in(workload) == [first]
    changed = replace(workload, authorized_keys=(second,), revision=4)
    for late in (workload, replace(workload, start=2)):
        await driver.ensure_running(changed)
        await until(driver, workload.id, is_reachable(late.start), ask=late)
        assert stage.lets_in(late) == [second]
        changed = replace(changed, start=2)
    after = stage.after_restart()
    await until(after, workload.id, is_reachable(2), ask=replace(workload, start=2))
    assert stage.lets_in(replace(workload, start=2)) == [second]
    await after.close()


async def test_notices_come_and_go_and_older_ones_do_not_come_back(stage: Stage, driver: Driver) -> None:
    line = "2026-03-01T12:00:00Z money it lasts for less than an hour"
    workload = stage.workload(revision=1)
    await until(driver, workload.id, is_reachable(1), ask=workload)
    assert stage.tells(workload) == []
    told = replace(workload, notices=(line, "2026-03-01T12:00:00Z term it ends"), revision=2)
    for each in (told, workload):
        await driver.ensure_running(each)
        assert stage.tells(workload) == list(told.notices)
    for each in (replace(workload, revision=3), told):
        await driver.ensure_running(each)
        assert stage.tells(workload) == []


async def test_stop_and_start(stage: Stage, driver: Driver) -> None:
    workload = stage.workload()
    await until(driver, workload.id, is_reachable(1), ask=workload)
    while not await driver.ensure_stopped(workload.id):
        await asyncio.sleep(0.02)
    seen = (await driver.observe())[workload.id]
    assert (seen.phase, seen.start, seen.exit_code) == (Phase.EXITED, 1, 0)
    assert await driver.ensure_stopped(workload.id)
    await driver.ensure_running(workload)  # the same start: it is not started again
    assert is_phase(Phase.EXITED)((await driver.observe())[workload.id])
    await until(driver, workload.id, is_reachable(2), ask=replace(workload, start=2))


async def test_a_death_is_seen_with_its_start_and_exit_code(stage: Stage, driver: Driver) -> None:
    workload = stage.workload()
    await until(driver, workload.id, is_reachable(1), ask=workload)
    stage.dies(workload)
    seen = await until(driver, workload.id, is_phase(Phase.EXITED))
    assert seen is not None
    assert (seen.start, seen.exit_code) == (1, 137)
    await until(driver, workload.id, is_reachable(2), ask=replace(workload, start=2))


async def test_what_somebody_removed_is_not_mentioned_and_is_made_anew(stage: Stage, driver: Driver) -> None:
    workload = stage.workload()
    await until(driver, workload.id, is_reachable(1), ask=workload)
    stage.vanishes(workload)
    await until(driver, workload.id, lambda seen: seen is None)
    await until(driver, workload.id, is_reachable(2), ask=replace(workload, start=2))


@pytest.mark.parametrize("stopped", [False, True])
async def test_absent_removes_and_can_be_repeated(stage: Stage, driver: Driver, stopped: bool) -> None:
    workload, other = stage.workload(), stage.workload()
    await until(driver, workload.id, is_reachable(1), ask=workload)
    await until(driver, other.id, is_reachable(1), ask=other)
    if stopped:
        await driver.ensure_stopped(workload.id)
    for _ in range(2):
        await driver.ensure_absent(workload.id)
        assert list(await driver.observe()) == [other.id]


async def test_unknown_instances_are_stopped_and_absent_already(stage: Stage, driver: Driver) -> None:
    unknown = stage.workload()
    assert await driver.ensure_stopped(unknown.id)
    await driver.ensure_absent(unknown.id)


async def test_no_answer_is_an_exception(stage: Stage) -> None:
    driver, workload = stage.without_engine(), stage.workload()
    for call in (
        driver.nodes(),
        driver.observe(),
        driver.ensure_running(workload),
        driver.ensure_stopped(workload.id),
        driver.ensure_absent(workload.id),
    ):
        with pytest.raises(Unreachable):
            await call


async def test_what_runs_is_found_again_without_memory(stage: Stage, driver: Driver) -> None:
    workload, stopped = stage.workload(), stage.workload()
    await until(driver, workload.id, is_reachable(1), ask=workload)
    await until(driver, stopped.id, is_reachable(1), ask=stopped)
    await driver.ensure_stopped(stopped.id)
    await until(driver, stopped.id, is_phase(Phase.EXITED))
    again = stage.after_restart()
    await until(again, workload.id, is_reachable(1))
    assert is_phase(Phase.EXITED)((await again.observe())[stopped.id])
    await again.ensure_running(workload)
    await again.ensure_absent(workload.id)
    assert list(await again.observe()) == [stopped.id]


async def test_changes_announces_starts_and_ends(stage: Stage, driver: Driver) -> None:
    """Whoever looks only when told to sees everything."""
    workload = stage.workload()
    hints = driver.changes()

    async def follow(holds) -> None:
        while not holds((await driver.observe()).get(workload.id)):
            await anext(hints)

    async with asyncio.timeout(SECONDS):
        first = asyncio.create_task(anext(hints))
        await asyncio.sleep(0)
        await driver.ensure_running(workload)
        await first
        await follow(is_reachable(1))
        stage.dies(workload)
        await follow(is_phase(Phase.EXITED))
        await driver.ensure_absent(workload.id)
        await follow(lambda seen: seen is None)


async def test_the_init_script_and_its_end(stage: Stage, driver: Driver) -> None:
    workload = stage.workload(init_script="echo hello from the script")
    seen = await until(
        driver, workload.id, lambda seen: seen is not None and seen.init_exit is not None, ask=workload
    )
    assert seen is not None
    assert seen.init_exit == 0


async def test_logs(stage: Stage, driver: Driver) -> None:
    assert isinstance(driver, Logs)
    workload = stage.workload(init_script="echo one; echo two")
    assert [chunk async for chunk in driver.logs(workload.id, follow=False, tail=None)] == []
    await until(driver, workload.id, lambda seen: seen is not None and seen.init_exit == 0, ask=workload)
    whole = b"".join([chunk async for chunk in driver.logs(workload.id, follow=False, tail=None)])
    assert whole.endswith(b"\n")
    last = b"".join([chunk async for chunk in driver.logs(workload.id, follow=False, tail=1)])
    assert last == whole.splitlines(keepends=True)[-1]
    assert b"".join([chunk async for chunk in driver.logs(workload.id, follow=False, tail=0)]) == b""


async def test_what_runs_says_which_devices_it_has(stage: Stage, driver: Driver) -> None:
    workload = stage.workload(devices=DEVICES)
    running = await until(driver, workload.id, is_reachable(1), ask=workload)
    assert running is not None
    assert running.devices == ("null", "zero")
    await driver.ensure_stopped(workload.id)
    stopped = await until(driver, workload.id, is_phase(Phase.EXITED))
    assert stopped is not None
    assert stopped.devices == (), "what is stopped holds none"
