"""How starts ended, and how init scripts did; the engine is asked once for each and remembered.

A listing tells exit codes only as text and never says why. An init script's end is a file inside
the instance that nobody announces, so it is looked for in the background, ever more seldom.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from aiodocker.exceptions import DockerError

from tidemill.drivers.contract import Unreachable
from tidemill.drivers.docker import inside
from tidemill.drivers.docker.engine import Engine
from tidemill.drivers.docker.errors import translate, without
from tidemill.drivers.docker.reach import Key
from tidemill.drivers.docker.spec import MIB, Found

FIRST_LOOK = 0.3  # seconds between the first two looks at an init script
LONGEST_LOOK = 10.0
GROWTH = 1.3
CODE_MOST = 16  # bytes of a file that should hold one number
INSPECTIONS = 16  # at the same time


@dataclass(frozen=True, slots=True)
class End:
    """How a container's main process ended."""

    exit_code: int | None
    reason: str = ""
    message: str = ""
    at: datetime | None = None


class Ends:
    """What is known of exits. Nothing here is raised but Unreachable.

    ``hide`` are host paths kept from users.
    """

    def __init__(self, engine: Engine, hide: Set[str]) -> None:
        self._engine = engine
        self._hide = hide
        self._ends: dict[Key, End] = {}
        self._few = asyncio.Semaphore(INSPECTIONS)

    async def of(self, found: Found) -> End:
        """The end of an exited container."""
        key = (found.container, found.start)
        if key not in self._ends:
            try:
                async with self._few:
                    container = await self._engine.inspect_container(found.container)
                self._ends[key] = read_end(container, self._hide)
            except DockerError:  # removed since it was listed
                return End(found.exit_code)
        return self._ends[key]

    def known(self) -> set[Key]:
        return set(self._ends)

    def forget(self, keys: set[Key]) -> None:
        for key in keys:
            self._ends.pop(key, None)


class InitScripts:
    """Exit codes of init scripts by container. ``path`` is where the guest writes them."""

    def __init__(self, engine: Engine, path: str, ring: Callable[[], None]) -> None:
        self._engine = engine
        self._path = path
        self._ring = ring
        self._codes: dict[str, int] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    def exit_code(self, container: str) -> int | None:
        return self._codes.get(container)

    def watch(self, container: str) -> None:
        """Look for the script's end until it is there; rings then."""
        if container not in self._codes and container not in self._looking:
            task = asyncio.create_task(self._look(container))
            self._looking[container] = task
            task.add_done_callback(lambda _: self._looking.pop(container, None))

    def known(self) -> set[str]:
        return self._codes.keys() | self._looking.keys()

    def rest(self, containers: set[str]) -> None:
        """These do not run: what is known stays, what is not yet known is not looked for."""
        for container in containers & self._looking.keys():
            self._looking[container].cancel()

    def forget(self, containers: set[str]) -> None:
        self.rest(containers)
        for container in containers:
            self._codes.pop(container, None)

    async def close(self) -> None:
        tasks = list(self._looking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, container: str) -> None:
        pause = FIRST_LOOK
        while (code := await self._read(container)) is None:
            await asyncio.sleep(pause)
            pause = min(LONGEST_LOOK, pause * GROWTH)
        self._codes[container] = code
        self._ring()

    async def _read(self, container: str) -> int | None:
        try:
            pid = int((await self._engine.inspect_container(container))["State"]["Pid"])
            return (
                read_code(await asyncio.to_thread(inside.read, pid, self._path, CODE_MOST)) if pid else None
            )
        except (DockerError, Unreachable, OSError):  # not there yet, or not now
            return None


def read_end(container: Mapping[str, Any], hide: Iterable[str] = ()) -> End:
    """From the engine's description of an exited container; ``hide`` are host paths."""
    return replace(_why(container, hide), at=_instant(container["State"].get("FinishedAt", "")))


def _instant(text: str) -> datetime | None:
    """The engine's way to write an instant; its year 1 stands for never."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None and found.year > 1 else None


def _why(container: Mapping[str, Any], hide: Iterable[str]) -> End:
    state = container["State"]
    code = int(state["ExitCode"])
    if state.get("Error"):
        return End(code, "StartError", str(translate(500, without(state["Error"], hide))))
    if code == 128 + signal.SIGKILL:
        most = container["HostConfig"].get("Memory", 0) // MIB
        if state.get("OOMKilled"):
            return End(code, "OOMKilled", f"it used more memory than the {most} MiB it has")
        # Newer kernels do not tell older engines why; it is still the likeliest cause.
        return End(code, "Killed", f"it was killed, perhaps for using more memory than the {most} MiB it has")
    if code > 128:
        with suppress(ValueError):
            return End(code, message=f"ended by the signal {signal.Signals(code - 128).name}")
    return End(code)


def read_code(content: bytes) -> int | None:
    """The number that a file holds which a user may have written; None if there is none."""
    try:
        code = int(content.decode("ascii"))
    except ValueError:
        return None
    return code if -1 <= code <= 255 else None
