"""How a server ends: told once, it finishes what is under way; told twice, it ends at once.

Whatever happens it does not take longer than ``BOUND``: nothing that a server does is lost when it dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger("server")

BOUND = 10.0  # seconds
TOO_SLOW = 1  # what the process ends with then


class Stopping:
    """That this server was told to stop. Listens to SIGTERM and SIGINT from when it is made."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)

    async def unless_asked(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of ``work``; None when it was cut short because the server is to stop."""
        working = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self.asked.wait())
        try:
            await asyncio.wait([working, asked], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                return None
            return working.result()
        finally:
            asked.cancel()

    def _told(self, number: int, _frame: FrameType | None) -> None:
        """Runs between two instructions of whatever the server is doing, also when that hangs."""
        if self.asked.is_set():
            os._exit(128 + number)
        self.asked.set()
        self._loop.call_soon_threadsafe(lambda: None)  # have the loop look
        late = threading.Timer(BOUND, _end_late)
        late.daemon = True
        late.start()


def _end_late() -> None:
    log.error("stopping took too long; what is under way is asked again by the next server")
    os._exit(TOO_SLOW)
