"""The drivers that the contract is tried on, each on a stage that can play the world around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.drivers.docker.world import World, docker, guest, image

from tidemill.drivers.contract import Device, Driver, Node, Workload
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.drivers.simulated.engine import Engine
from tidemill.drivers.simulated.file import EngineInFile

__all__ = ["guest", "image"]

DEVICES = tuple(Device(name, "A device", (f"/dev/{name}",)) for name in ("null", "zero"))
NODES = [Node("node", 64, 2**19, 1000, DEVICES)]


class Stage(Protocol):
    """One driver, and what can happen to its engine."""

    driver: Driver

    def workload(self, **changes: object) -> Workload: ...
    def dies(self, workload: Workload) -> None: ...
    def vanishes(self, workload: Workload) -> None: ...
    def lets_in(self, workload: Workload) -> list[str]: ...
    def tells(self, workload: Workload) -> list[str]: ...
    def without_engine(self) -> Driver: ...
    def after_restart(self) -> Driver: ...


class SimulatedStage:
    """The simulated engine in memory, or in a file in ``folder``."""

    def __init__(self, world: World, folder: Path | None) -> None:
        self.engine = Engine(NODES) if folder is None else EngineInFile(folder, NODES, now=time.monotonic)
        self.driver = SimulatedDriver(sleep=asyncio.sleep, engine=self.engine)
        self.folder = folder
        self.workload = world.workload

    def dies(self, workload: Workload) -> None:
        self.driver.play_exit(workload.id, 137)

    def vanishes(self, workload: Workload) -> None:
        self.driver.play_vanish(workload.id)

    def lets_in(self, workload: Workload) -> list[str]:
        with self.engine.turn():
            return list(self.engine.made[workload.id].workload.authorized_keys)

    def tells(self, workload: Workload) -> list[str]:
        with self.engine.turn():
            return list(self.engine.made[workload.id].workload.notices)

    def without_engine(self) -> Driver:
        self.driver.dials.unreachable = "the engine gives no answer"
        return self.driver

    def after_restart(self) -> Driver:
        if self.folder is not None:
            self.engine = EngineInFile(self.folder, NODES, now=time.monotonic)
        return SimulatedDriver(sleep=asyncio.sleep, engine=self.engine)


class DockerStage:
    def __init__(self, world: World) -> None:
        self.world = world
        self.driver = world.driver()
        self.workload = world.workload

    def dies(self, workload: Workload) -> None:
        docker("kill", self.world.container(workload))

    def vanishes(self, workload: Workload) -> None:
        docker("rm", "-f", self.world.container(workload))

    def lets_in(self, workload: Workload) -> list[str]:
        code, said = self.world.run_in(workload, "cat", "/.tidemill/instance/authorized_keys")
        assert code == 0
        return said.splitlines()

    def tells(self, workload: Workload) -> list[str]:
        code, said = self.world.run_in(workload, "cat", "/.tidemill/instance/notices")
        return said.splitlines() if code == 0 else []

    def without_engine(self) -> Driver:
        return self.world.driver(url=f"unix://{self.world.data_dir}/no.sock")

    def after_restart(self) -> Driver:
        return self.world.driver()


@pytest.fixture(params=["simulated", "simulated in a file", pytest.param("docker", marks=pytest.mark.docker)])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    if request.param != "docker":
        folder = tmp_path / "engine" if "file" in request.param else None
        made = SimulatedStage(World(None, "an image", tmp_path), folder)  # type: ignore[arg-type]
        yield made
        await made.driver.close()
        return
    world = World(request.getfixturevalue("guest"), request.getfixturevalue("image"), tmp_path)
    try:
        yield DockerStage(world)
    finally:
        await world.clean_up()


@pytest.fixture
def driver(stage: Stage) -> Driver:
    return stage.driver
