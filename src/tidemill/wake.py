"""The bell between those who change what is wanted and the loop that brings it about."""

from __future__ import annotations

import asyncio


class Wake:
    """A wake-up that carries no data; any number of rings before the loop looks count as one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Ring: there may be something to do."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most ``seconds``; True when there was one."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        finally:
            self._event.clear()
        return True
