"""One server's loop on the simulated engine, driven pass by pass under a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from sqlalchemy import select
from tests.stock import REGION, HandClock, Stocked, accept

from tidemill.drivers.contract import Device, Node
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import Event, State
from tidemill.reconcile.loop import Loop
from tidemill.settings import Settings
from tidemill.store import instances
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
            lambda connection: accept(
                connection,
                self.settings,
                self.stocked.alice,
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

    def leased_to(self, id: str) -> str | None:
        return self.stocked.database.run(
            lambda c: c.execute(
                select(instance_rows.c.leased_to).where(instance_rows.c.id == id)
            ).scalar_one()
        )

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
    await loop._orphans.settled()
