"""The boundary of one server process: whatever it asks of its database and its engine passes here.

Every call is counted, and at one of them something goes wrong, once: no answer before anything was
done, no answer after all or half of it was done, or the process ends there and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar

from tidemill.drivers.contract import Driver, Node, Unreachable, Workload
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.errors import Unavailable
from tidemill.model.observation import InstanceId, Seen
from tidemill.store.database import Database, Work

T = TypeVar("T")


class Fault(StrEnum):
    """What goes wrong at a call."""

    NOTHING = "nothing"  # but somebody comes between
    NOTHING_DONE = "no answer, nothing done"
    ANSWER_LOST = "done, and the answer lost"
    HALF_DONE = "half done, and no answer"
    ENDS_BEFORE = "the process ends before"
    ENDS_AFTER = "the process ends after"


class Kind(StrEnum):
    """What a call is: one that only looks cannot be done and be lost."""

    READ = "read"
    WRITE = "write"
    LOOK = "look"
    ENSURE = "ensure"


# To end before a call that only looks is to end after the one before it.
FAULTS: Mapping[Kind, tuple[Fault, ...]] = {
    Kind.READ: (Fault.NOTHING_DONE,),
    Kind.WRITE: (Fault.NOTHING_DONE, Fault.ANSWER_LOST, Fault.ENDS_BEFORE, Fault.ENDS_AFTER),
    Kind.LOOK: (Fault.NOTHING_DONE,),
    Kind.ENSURE: tuple(fault for fault in Fault if fault is not Fault.NOTHING),
}


@dataclass(frozen=True)
class Point:
    """The ``number``-th call of a process, and what goes wrong there."""

    number: int
    fault: Fault

    def __str__(self) -> str:
        return f"call {self.number}: {self.fault}"


@dataclass
class Gate:
    """Counts the calls of one process, from when it is armed, and lets ``point`` go wrong.

    ``intrude`` is what somebody else does right before that call.
    """

    point: Point | None = None
    intrude: Callable[[], Awaitable[None]] | None = None
    armed: bool = False
    calls: list[tuple[Kind, str]] = field(default_factory=list[tuple[Kind, str]])
    struck: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def cross(
        self,
        kind: Kind,
        name: str,
        work: Callable[[], Awaitable[T]],
        *,
        half: Callable[[], Awaitable[Any]] | None = None,
    ) -> T:
        if self.ended.is_set():  # what is left of a process that ended does nothing
            raise asyncio.CancelledError
        if not self.armed:
            return await work()
        self.calls.append((kind, name))
        if self.point is None or len(self.calls) != self.point.number:
            return await work()
        self.struck = True
        if self.intrude is not None:
            await self.intrude()
        match self.point.fault:
            case Fault.NOTHING:
                return await work()
            case Fault.NOTHING_DONE:
                raise _no_answer(kind)
            case Fault.ENDS_BEFORE:
                await self.end()
            case Fault.HALF_DONE:
                assert half is not None
                await half()
                raise _no_answer(kind)
            case Fault.ANSWER_LOST:
                with suppress(Exception):  # whatever the answer was
                    await work()
                raise _no_answer(kind)
            case Fault.ENDS_AFTER:
                with suppress(Exception):
                    await work()
                await self.end()
        raise AssertionError("a process went on after its end")

    async def end(self) -> None:
        """The process ends: nothing of it runs on."""
        self.ended.set()
        await asyncio.Event().wait()


def _no_answer(kind: Kind) -> Exception:
    if kind in {Kind.READ, Kind.WRITE}:
        return Unavailable("the database does not answer", code="databaseUnavailable")
    return Unreachable("the engine does not answer")


class GatedDatabase(Database):
    """A database whose transactions pass a gate."""

    def __init__(self, inner: Database, gate: Gate) -> None:
        self.url = inner.url
        self.is_sqlite = inner.is_sqlite
        self._inner = inner
        self._gate = gate

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        return await self._gate.cross(
            Kind.WRITE, _name(work), lambda: self._inner.write(work, durable=durable)
        )

    async def read(self, work: Work[T]) -> T:
        return await self._gate.cross(Kind.READ, _name(work), lambda: self._inner.read(work))

    async def read_much(self, work: Work[T]) -> T:
        return await self._gate.cross(Kind.READ, _name(work), lambda: self._inner.read_much(work))

    def run(self, work: Work[T]) -> T:
        raise AssertionError("nothing that runs in a server may wait on the thread of its event loop")


def _name(work: Work[Any]) -> str:
    return getattr(work, "__qualname__", repr(work)).replace(".<locals>", "")


class GatedDriver(Driver):
    """A driver whose calls pass a gate."""

    def __init__(self, inner: SimulatedDriver, gate: Gate) -> None:
        self.capabilities = inner.capabilities
        self._inner = inner
        self._gate = gate

    async def nodes(self) -> list[Node]:
        return await self._gate.cross(Kind.LOOK, "nodes", self._inner.nodes)

    async def observe(self) -> Mapping[InstanceId, Seen]:
        return await self._gate.cross(Kind.LOOK, "observe", self._inner.observe)

    async def changes(self) -> AsyncIterator[None]:
        async with aclosing(self._inner.engine.hints.listen()) as hints:
            async for _ in hints:
                yield

    async def ensure_running(self, workload: Workload) -> None:
        await self._ensure("ensure_running", lambda: self._inner.ensure_running(workload))

    async def ensure_stopped(self, id: InstanceId) -> bool:
        return await self._ensure("ensure_stopped", lambda: self._inner.ensure_stopped(id))

    async def ensure_absent(self, id: InstanceId) -> None:
        await self._ensure("ensure_absent", lambda: self._inner.ensure_absent(id))

    async def _ensure(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self._gate.cross(Kind.ENSURE, name, work, half=lambda: self._half(work))

    async def _half(self, work: Callable[[], Awaitable[Any]]) -> None:
        whole, self._inner.dials = self._inner.dials, replace(self._inner.dials, half=True)
        try:
            await work()
        finally:
            self._inner.dials = whole

    async def close(self) -> None:
        await self._inner.close()
