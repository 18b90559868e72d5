"""The drivers that the contract is tried on, each on a stage that can play the world around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.drivers.docker.world import World, docker, guest, image

from tidemill.drivers.contract import Driver, Node, Workload
from tidemill.drivers.simulated.driver import SimulatedDriver

__all__ = ["guest", "image"]


class Stage(Protocol):
    """One driver, and what can happen to its engine."""

    driver: Driver

    def workload(self, **changes: object) -> Workload: ...
    def dies(self, workload: Workload) -> None: ...
    def vanishes(self, workload: Workload) -> None: ...
    def without_engine(self) -> Driver: ...
    def after_restart(self) -> Driver: ...


class SimulatedStage:
    def __init__(self, world: World) -> None:
        self.driver = SimulatedDriver(nodes=[Node("node", 64, 2**19, 1000)], sleep=asyncio.sleep)
        self.workload = world.workload

    def dies(self, workload: Workload) -> None:
        self.driver.play_exit(workload.id, 137)

    def vanishes(self, workload: Workload) -> None:
        self.driver.play_vanish(workload.id)

    def without_engine(self) -> Driver:
        self.driver.dials.unreachable = "the engine gives no answer"
        return self.driver

    def after_restart(self) -> Driver:
        return self.driver  # it is its own engine


class DockerStage:
    def __init__(self, world: World) -> None:
        self.world = world
        self.driver = world.driver()
        self.workload = world.workload

    def dies(self, workload: Workload) -> None:
        docker("kill", self.world.container(workload))

    def vanishes(self, workload: Workload) -> None:
        docker("rm", "-f", self.world.container(workload))

    def without_engine(self) -> Driver:
        return self.world.driver(url=f"unix://{self.world.data_dir}/no.sock")

    def after_restart(self) -> Driver:
        return self.world.driver()


@pytest.fixture(params=["simulated", pytest.param("docker", marks=pytest.mark.docker)])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    if request.param == "simulated":
        made = SimulatedStage(World(None, "an image", tmp_path))  # type: ignore[arg-type]
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
