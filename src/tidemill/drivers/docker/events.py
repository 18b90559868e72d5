"""The engine's stream of events, as hints to look again; comes back after the engine went away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from aiodocker.exceptions import DockerError

from tidemill.drivers.contract import Unreachable
from tidemill.drivers.docker.engine import Engine
from tidemill.drivers.docker.spec import DEPLOYMENT

OF_INTEREST = ("start", "die", "oom", "destroy")
FIRST_PAUSE = 0.25  # seconds
LONGEST_PAUSE = 5.0


class EngineEvents:
    """Rings for every event of a container of ``deployment``, and once after each reconnection."""

    def __init__(self, engine: Engine, deployment: str, ring: Callable[[], None]) -> None:
        self._engine = engine
        self._ring = ring
        self._filters = json.dumps(
            {"type": ["container"], "event": OF_INTEREST, "label": [f"{DEPLOYMENT}={deployment}"]}
        )
        self._task: asyncio.Task[None] | None = None
        self.breaks = 0  # how often it ended, as it does when the engine does

    def follow(self) -> None:
        """Begin, unless it has begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._engine.stream("events", {"filters": self._filters}) as body:
                    self._ring()  # whatever happened until now was not heard
                    pause = FIRST_PAUSE
                    try:
                        while await body.readany():
                            self._ring()
                    finally:
                        self.breaks += 1
            except (Unreachable, DockerError):  # said to whoever calls the engine for an answer
                pass
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)
