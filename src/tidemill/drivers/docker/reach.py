"""Whether an instance's ssh server answers: asked often at first, then about once a second.

A probe connects where a user would connect, to the published port, and waits for the greeting
that every ssh server sends. Nothing is logged in and nothing is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

FIRST_PAUSE = 0.02  # seconds
LONGEST_PAUSE = 1.0
GROWTH = 1.15
ANSWER_SECONDS = 3.0  # a greeting that takes longer counts as none
GREETING = b"SSH-"

Key = tuple[str, int]  # the container, and which start of the instance it is in


class Probes:
    """Which containers were seen to answer, and the probes of those that were not yet."""

    def __init__(self, host: str, ring: Callable[[], None]) -> None:
        self._host = host
        self._ring = ring
        self._reached: set[Key] = set()
        self._asking: dict[Key, asyncio.Task[None]] = {}

    def reached(self, key: Key) -> bool:
        return key in self._reached

    def watch(self, key: Key, port: int) -> None:
        """Ask at ``port`` until it answers; rings when it does."""
        if key not in self._reached and key not in self._asking:
            task = asyncio.create_task(self._ask(key, port))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))

    def known(self) -> set[Key]:
        return self._reached | self._asking.keys()

    def forget(self, keys: set[Key]) -> None:
        """These do not run any more."""
        self._reached -= keys
        for key in keys & self._asking.keys():
            self._asking[key].cancel()

    async def close(self) -> None:
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, key: Key, port: int) -> None:
        pause = FIRST_PAUSE
        while not await greets(self._host, port):
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * GROWTH)
        self._reached.add(key)
        self._ring()


async def greets(host: str, port: int) -> bool:
    """Whether an ssh server says hello at ``host``:``port``."""
    writer = None
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            while line := await reader.readline():
                if line.startswith(GREETING):  # lines before the greeting are allowed by the protocol
                    return True
    except (OSError, TimeoutError, ValueError):  # ValueError: a line without an end
        return False
    finally:
        if writer is not None:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    return False


def probe_host(publish_address: str) -> str:
    """Where the ports that are published at ``publish_address`` are reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(publish_address, publish_address)  # noqa: S104 - compared, not bound
