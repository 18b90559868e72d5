"""An event loop without a machine below it: time jumps to the next timer, and everything is repeatable.

Handles run in the order in which they became ready, as on a real loop, so what differs between two
seeds is what the seed drew: how long each wait takes, and at which step somebody dies. Whatever runs
belongs to an :class:`Actor` (one life of a server) or to nobody: a dead actor's handles are put aside
and run no more, a stalled one's wait until it goes on.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

STEPS_MOST = 300_000  # of one seed: more is something that turns round and round


class NeverEnds(AssertionError):
    """Steps without end, or nothing left to wait for."""


@dataclass(slots=True, eq=False)
class Actor:
    """One life of a server. ``dies_at`` is the step before which it dies; ``dying`` is told of it."""

    name: str
    steps: int = 0
    dead: bool = False
    stalled: bool = False
    has_stalled: bool = False
    dies_at: int | None = None
    dying: Callable[[], None] | None = None
    aside: list[Step] = field(default_factory=list["Step"])

    def die(self) -> None:
        """Nothing of it runs any more."""
        if not self.dead:
            self.dead = True
            if self.dying is not None:
                self.dying()


ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


class Step(float):
    """What is to be run, and when: asyncio's handle, as little of it as is used here.

    It is its instant, so that the heap compares instants and nothing of ours is called for it.
    """

    __slots__ = ("args", "callback", "context", "gone")
    callback: Callable[..., object] | None
    args: tuple[Any, ...]
    context: Context
    gone: bool

    def cancel(self) -> None:
        self.gone = True
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return float(self)


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module."""

    _ready: Any
    _scheduled: Any

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.complaints: list[str] = []
        self._instant = 0.0
        self._reaping = False
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self._instant

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self._reaping:
            self.complaints.append(f"{context.get('message')}: {type(error).__name__}: {error}")

    def _run_once(self) -> None:
        ready, scheduled, instant = self._ready, self._scheduled, self._instant
        if not ready:
            while scheduled and scheduled[0].gone:
                heapq.heappop(scheduled)
            if not scheduled:
                raise NeverEnds("nothing is left to wait for")
            instant = self._instant = max(instant, scheduled[0].when())
        while scheduled and scheduled[0] <= instant:
            ready.append(heapq.heappop(scheduled))
        for _ in range(len(ready)):
            step = ready.popleft()
            if step.gone:
                continue
            context = step.context
            actor = context.get(ACTOR)
            if actor is not None and not self._reaping and self._is_held(actor, step):
                continue
            self.steps += 1
            try:
                context.run(step.callback, *step.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                message = f"Exception in callback {step.callback!r}"
                self.call_exception_handler({"message": message, "exception": error})
        if self.steps > STEPS_MOST and not self._reaping:
            raise NeverEnds(f"{self.steps} steps, and only {self._instant:g} s have passed")

    @staticmethod
    def _is_held(actor: Actor, step: Step) -> bool:
        """Whether this step of ``actor`` is not taken: it is dead, dies here, or stands still."""
        if not actor.dead and not actor.stalled:
            actor.steps += 1
            if actor.dies_at is None or actor.steps < actor.dies_at:
                return False
            actor.die()
        actor.aside.append(step)
        return True

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        step = self._step(0.0, callback, args, context)
        self._ready.append(step)
        return step

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        step = self._step(when, callback, args, context)
        heapq.heappush(self._scheduled, step)
        return step

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        step = self._step(self._instant + delay, callback, args, context)
        heapq.heappush(self._scheduled, step)
        return step

    @staticmethod
    def _step(when: float, callback: Any, args: tuple[Any, ...], context: Context | None) -> Step:
        step = Step(when)
        step.callback = callback
        step.args = args
        step.context = copy_context() if context is None else context
        step.gone = False
        return step

    def resume(self, actor: Actor) -> None:
        """A stalled actor goes on with what has come up meanwhile."""
        actor.stalled = False
        self._ready.extend(actor.aside)
        actor.aside.clear()

    def reap(self, actors: Iterable[Actor]) -> None:
        """Cancel everything that was begun, also by the dead, and run it to its end."""
        self._reaping = True
        for actor in actors:
            self.resume(actor)
        while tasks := asyncio.all_tasks(self):
            for task in tasks:
                task.cancel()
            self.run_until_complete(asyncio.wait(tasks))
        self.run_until_complete(self.shutdown_asyncgens())

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        raise AssertionError("a thread would make a seed unrepeatable")
