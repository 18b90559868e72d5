"""All the bells of one server: its loops', and on PostgreSQL those of the other servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import psycopg
import structlog

from tidemill.actions.news import News
from tidemill.clock import Clock
from tidemill.model.errors import Unavailable
from tidemill.store.bell import Bell
from tidemill.wake import Wake

log = structlog.get_logger("server")

NEWS_PACE = 0.1  # seconds between rings for what was recorded, however much it is
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
            group.create_task(_tell(self._others, self._to_others, self._clock, pace=0.0))
            if self.of:
                group.create_task(_hear(self._others, self._ring_here, self._clock))


class NewsBells:
    """Has the servers hear of each other that something was recorded; ``others`` on PostgreSQL alone."""

    def __init__(self, news: News, others: Bell | None, clock: Clock) -> None:
        self._news = news
        self._others = others
        self._clock = clock
        self._to_others = asyncio.Event()

    def recorded(self) -> None:
        """Something was recorded by this server."""
        self._news.ring()
        self._to_others.set()

    async def run(self) -> None:
        """For as long as this runs; others are heard from when somebody here first wants to know."""
        if self._others is None:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(_tell(self._others, self._to_others, self._clock, pace=NEWS_PACE))
            await self._news.wanted.wait()
            group.create_task(_hear(self._others, self._news.ring, self._clock))


async def _tell(others: Bell, told: asyncio.Event, clock: Clock, *, pace: float) -> None:
    """One ring for however many there were since the last."""
    while True:
        await told.wait()
        told.clear()
        try:
            await others.ring()
        except Unavailable as error:  # their beat finds it
            log.warning("the other servers were not woken", error=error.detail or error.message)
        if pace:
            await clock.sleep(pace)


async def _hear(others: Bell, ring: Callable[[], None], clock: Clock) -> None:
    pause = FIRST_PAUSE
    while True:
        try:
            async for _ in others.rings():
                ring()
                pause = FIRST_PAUSE
        except (psycopg.Error, OSError) as error:  # until it is back, the beat looks
            log.warning("the other servers are not heard", error=type(error).__name__)
        await clock.sleep(pause)
        pause = min(LONGEST_PAUSE, 2 * pause)
