"""What runs without the engine's knowing, as after it was killed in the middle of a start."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.drivers.docker.world import World, docker, is_phase, is_reachable, until

from tidemill.drivers.docker.driver import DockerDriver
from tidemill.drivers.docker.processes import Processes
from tidemill.model.observation import Phase, Seen

pytestmark = pytest.mark.docker

Stray = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def stray(world: World, tmp_path: Path) -> Iterator[Stray]:
    """Begins a process that has an instance's files where an instance has them, and is in no container."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(id: str) -> subprocess.Popen[bytes]:
        root, files = tmp_path / f"root-{len(begun)}", world.data_dir / "instances" / id
        (root / ".tidemill" / "instance").mkdir(parents=True)
        files.mkdir(parents=True, exist_ok=True)
        (root / "busybox").write_bytes((world.guest.folder / "bin/busybox").read_bytes())
        (root / "busybox").chmod(0o755)
        enter = f"mount --bind {files} {root}/.tidemill/instance && exec chroot {root} /busybox sleep 600"
        begun.append(subprocess.Popen(["unshare", "--mount", "sh", "-c", enter]))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait()


async def is_found(world: World, id: str) -> None:
    """Returns when it is in its place: it takes a few steps to get there."""
    processes = Processes(world.data_dir / "instances", "/.tidemill/instance")
    while id not in await processes.astray(()):
        pass


async def test_it_is_shown_as_running_and_is_ended(world: World, driver: DockerDriver, stray: Stray) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    process = stray(workload.id)
    await is_found(world, workload.id)
    again = world.driver()
    assert (await again.observe())[workload.id] == Seen(0, Phase.STARTED), "wanted by nobody: to be stopped"
    await again.ensure_stopped(workload.id)
    assert process.wait(10) == -9
    assert (await again.observe())[workload.id].phase is Phase.EXITED


async def test_a_start_ends_it_first(world: World, driver: DockerDriver, stray: Stray) -> None:
    workload = await world.up(driver, world.workload())
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    process = stray(workload.id)
    await is_found(world, workload.id)
    again = world.driver()
    await until(again, workload.id, is_reachable(2), ask=replace(workload, start=2))
    assert process.wait(10) == -9


async def test_without_a_container_it_is_gone_before_anything_is_made_anew(
    world: World, driver: DockerDriver, stray: Stray
) -> None:
    workload = await world.up(driver, world.workload())
    docker("rm", "-f", world.container(workload))
    process = stray(workload.id)
    await is_found(world, workload.id)
    again = world.driver()
    assert (await again.observe())[workload.id] == Seen(0, Phase.STARTED)
    await again.ensure_running(workload)
    assert process.wait(10) == -9
    assert await again.observe() == {}, "so that it is told that it was lost"
    await world.up(again, replace(workload, start=2))


async def test_beside_a_container_it_is_ended_by_itself(
    world: World, driver: DockerDriver, stray: Stray
) -> None:
    workload = await world.up(driver, world.workload())
    process = stray(workload.id)
    await is_found(world, workload.id)
    again = world.driver()
    await until(again, workload.id, lambda seen: process.poll() is not None)
    await until(again, workload.id, is_reachable(1))
    assert world.containers() == [world.container(workload)]


async def test_a_removal_ends_it(world: World, driver: DockerDriver, stray: Stray) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    other = await world.up(driver, world.workload())
    process = stray(workload.id)
    await is_found(world, workload.id)
    again = world.driver()
    await again.observe()
    await again.ensure_absent(workload.id)
    assert process.wait(10) == -9
    await until(again, other.id, is_reachable(1))
    await again.ensure_absent(other.id)
    assert world.left_over() == {}


async def test_an_engine_that_was_away_is_looked_behind(
    world: World, driver: DockerDriver, stray: Stray
) -> None:
    workload = await world.up(driver, world.workload())
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    process = stray(workload.id)
    await is_found(world, workload.id)
    assert (await driver.observe())[workload.id].phase is Phase.EXITED, "nobody looked: it costs time"
    driver._events.breaks += 1
    assert (await driver.observe())[workload.id].phase is Phase.STARTED
    await driver.ensure_stopped(workload.id)
    assert process.wait(10) == -9
