"""How a driver says "look again" to everyone who listens: hints without data, many count as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator


class Hints:
    """Any number of listeners; each gets at least one hint after every :meth:`ring`."""

    def __init__(self) -> None:
        self._listeners: dict[asyncio.Event, None] = {}  # in the order they came: the same every time

    def ring(self) -> None:
        for listener in self._listeners:
            listener.set()

    async def listen(self) -> AsyncGenerator[None]:
        """Yields after each ring (rings before the listener looks count as one), for ever."""
        listener = asyncio.Event()
        self._listeners[listener] = None
        try:
            while True:
                await listener.wait()
                listener.clear()
                yield
        finally:
            self._listeners.pop(listener, None)
