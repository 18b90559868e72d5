"""All the bells of one server: its loops', and on PostgreSQL those of the other servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import psycopg
import structlog

from tidemill.clock import Clock
from tidemill.model.errors import Unavailable
from tidemill.store.bell import Bell
from tidemill.wake import Wake

log = structlog.get_logger("server")

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between attempts to hear the others again


class Bells(Wake):
    """One bell for the API that rings the loop of every region, here and on the ``others``."""

    def __init__(self, regions: Iterable[str], others: Bell | None, clock: Clock) -> None:
        super().__init__()
        self.of = {region: Wake() for region in regions}
        self._others = others
        self._clock = clock
        self._to_others = asyncio.Event()

    def set(self) -> None:
        self._ring_here()
        self._to_others.set()

    def _ring_here(self) -> None:
        for wake in self.of.values():
            wake.set()

    async def run(self) -> None:
        """Tell the others, and hear them, for as long as this runs."""
        if self._others is None:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell(self._others))
            if self.of:
                group.create_task(self._hear(self._others))

    async def _tell(self, others: Bell) -> None:
        """One ring for however many there were since the last."""
        while True:
            await self._to_others.wait()
            self._to_others.clear()
            try:
                await others.ring()
            except Unavailable as error:  # their beat finds it
                log.warning("the other servers were not woken", error=error.detail or error.message)

    async def _hear(self, others: Bell) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async for _ in others.rings():
                    self._ring_here()
                    pause = FIRST_PAUSE
            except (psycopg.Error, OSError) as error:  # until it is back, the beat looks
                log.warning("the other servers are not heard", error=type(error).__name__)
            await self._clock.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
