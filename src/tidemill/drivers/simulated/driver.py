"""An engine that does not exist, for trying the API and for tests: deterministic, in memory.

It keeps the driver contract to the letter. :class:`Dials` make it slow or make it say no; the
``play_*`` methods are the world around it (a process dies, a container vanishes).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from tidemill.drivers.contract import Capabilities, Driver, Node, NoRoom, Refused, Unreachable, Workload
from tidemill.drivers.hints import Hints
from tidemill.model.observation import InstanceId, Phase, Seen


@dataclass(slots=True)
class Dials:
    """What goes wrong, for every call from now on.

    Attributes:
        start_seconds: how long a start takes before it is reachable.
        never: a start is accepted and never becomes reachable.
        unreachable, refuses, no_room: the message to raise with, or "".
        loses_answer: do the work, then say that there was no answer.
    """

    start_seconds: float = 0.0
    never: bool = False
    unreachable: str = ""
    refuses: str = ""
    no_room: str = ""
    loses_answer: bool = False


@dataclass(slots=True)
class _Made:
    """One object of this engine, with what is on its disks."""

    workload: Workload
    seen: Seen
    starts: list[int] = field(default_factory=list[int])


class SimulatedDriver(Driver):
    """See the module. ``sleep`` lets the injected clock's time pass."""

    capabilities = Capabilities(data_disks=True, logs=True, devices=True)

    def __init__(self, *, nodes: Sequence[Node], sleep: Callable[[float], Awaitable[None]]) -> None:
        self.dials = Dials()
        self.made: dict[InstanceId, _Made] = {}
        self._nodes = list(nodes)
        self._sleep = sleep
        self._hints = Hints()
        self._starting: set[asyncio.Task[None]] = set()

    async def nodes(self) -> list[Node]:
        self._check_answer()
        return list(self._nodes)

    async def observe(self) -> Mapping[InstanceId, Seen]:
        self._check_answer()
        return {id: made.seen for id, made in self.made.items()}

    async def changes(self) -> AsyncIterator[None]:
        async with aclosing(self._hints.listen()) as hints:
            async for _ in hints:
                yield

    async def ensure_running(self, workload: Workload) -> None:
        self._check_answer()
        if self.dials.refuses:
            raise Refused(self.dials.refuses)
        made = self.made.get(workload.id)
        if made is None and self.dials.no_room:
            raise NoRoom(self.dials.no_room)
        if made is None or made.seen.start < workload.start:
            self._start(workload)
        elif made.seen.start == workload.start:
            made.workload = workload
        self._check_lost()

    def _start(self, workload: Workload) -> None:
        made = self.made.setdefault(workload.id, _Made(workload, Seen(workload.start, Phase.CREATED)))
        made.workload = workload
        made.starts.append(workload.start)
        init = 0 if workload.init_script else None
        if not self.dials.never and self.dials.start_seconds == 0:
            made.seen = Seen(workload.start, Phase.REACHABLE, init_exit=init)
            self._hints.ring()
            return
        made.seen = Seen(workload.start, Phase.STARTED)
        if not self.dials.never:
            task = asyncio.create_task(self._become_reachable(workload.id, workload.start, init))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _become_reachable(self, id: InstanceId, start: int, init: int | None) -> None:
        await self._sleep(self.dials.start_seconds)
        made = self.made.get(id)
        if made is not None and made.seen == Seen(start, Phase.STARTED):
            made.seen = Seen(start, Phase.REACHABLE, init_exit=init)
            self._hints.ring()

    async def ensure_stopped(self, id: InstanceId) -> None:
        self._check_answer()
        made = self.made.get(id)
        if made is not None and made.seen.phase is not Phase.EXITED:
            made.seen = replace(made.seen, phase=Phase.EXITED, exit_code=0)
            self._hints.ring()
        self._check_lost()

    async def ensure_absent(self, id: InstanceId) -> None:
        self._check_answer()
        if self.made.pop(id, None) is not None:
            self._hints.ring()
        self._check_lost()

    async def logs(self, id: InstanceId, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        self._check_answer()
        made = self.made.get(id)
        lines = [f"simulated start {start}\n".encode() for start in made.starts] if made is not None else []
        for line in lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]:
            yield line

    async def close(self) -> None:
        for task in list(self._starting):
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)

    def play_exit(self, id: InstanceId, exit_code: int = 1) -> None:
        """The main process of an instance ends by itself."""
        made = self.made[id]
        made.seen = replace(made.seen, phase=Phase.EXITED, exit_code=exit_code)
        self._hints.ring()

    def play_vanish(self, id: InstanceId) -> None:
        """Somebody removes an instance behind our back."""
        del self.made[id]
        self._hints.ring()

    def _check_answer(self) -> None:
        if self.dials.unreachable:
            raise Unreachable(self.dials.unreachable)

    def _check_lost(self) -> None:
        if self.dials.loses_answer:
            raise Unreachable("the answer was lost")
