"""A simulated engine of two machines under a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.stock import HandClock

from tidemill.drivers.contract import Device, Node, Port, Workload
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.observation import Phase, Seen

NODES = [
    Node(name, cpu=4, memory_mb=4096, disk_gb=100, devices=(Device("gpu-0", "H100"), Device("gpu-1", "H100")))
    for name in ("left", "right")
]


def workload(id: str = "notebook-1", **changes: Any) -> Workload:
    values: dict[str, Any] = {
        "id": id,
        "start": 1,
        "tenant": "alice",
        "hostname": "box",
        "image": "debian",
        "cpu": 1.0,
        "memory_mb": 512,
        "shm_mb": 16,
        "pids": 64,
        "ports": (Port(22, 31000 + int(id.rpartition("-")[2])),),
        "authorized_keys": (),
        "host_key": bytes(32),
        "node": "left",
    }
    return Workload(**(values | changes))


@dataclass
class Bench:
    """One driver, and what is seen through it."""

    clock: HandClock
    driver: SimulatedDriver
    calls: set[asyncio.Task[None]] = field(default_factory=set)

    async def seen(self) -> Mapping[str, Seen]:
        return await self.driver.observe()

    async def phase(self, id: str = "notebook-1") -> Phase | None:
        found = (await self.driver.observe()).get(id)
        return None if found is None else found.phase

    def turn(self, **dials: Any) -> None:
        """Turn these dials, and all others back."""
        self.driver.dials = replace(type(self.driver.dials)(), **dials)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def bench(clock: HandClock) -> Bench:
    return Bench(clock, SimulatedDriver(nodes=NODES, sleep=clock.sleep, now=clock.monotonic))
