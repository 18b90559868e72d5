"""One definition, two clients: how the same generator of effects is run while blocking, or awaited.

A resource (:class:`Resource`) is written once, generic in its kind. What is marked :class:`operation` gives
one result, :class:`stream` is iterated over, :class:`context` is entered. Read from a resource of the
kind :class:`Sync`, they are plain functions, iterators and context managers; from one of the kind
:class:`Async`, their asynchronous counterparts; types say so. Their ``steps`` are for other definitions:
``yield from Instances.get.steps(self, id)``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from tidemill.client.effects import Effect, Flow, Item, Steps

P = ParamSpec("P")
T = TypeVar("T")


class Sync:
    """Blocks until there is an answer."""


class Async:
    """Is awaited."""


K = TypeVar("K", Sync, Async)


class SyncLine(Protocol):
    """The world outside, for those who wait. ``taps`` is what this call has opened."""

    def perform(self, effect: Effect, taps: list[Any]) -> Any: ...
    def shut(self, taps: list[Any]) -> None: ...


class AsyncLine(Protocol):
    """The world outside, for those who await."""

    async def perform(self, effect: Effect, taps: list[Any]) -> Any: ...
    async def shut(self, taps: list[Any]) -> None: ...


class Resource(Generic[K]):
    """Calls of one subject, over the line of one client."""

    def __init__(self, line: SyncLine | AsyncLine, *, awaits: bool) -> None:
        self.line: Any = line
        self.is_async = awaits


def _run(line: SyncLine, steps: Generator[Any, Any, T]) -> Generator[Any, None, T]:
    """Yields what its items hold; returns what it returns. What is raised outside is raised inside."""
    taps: list[Any] = []
    reply: Any = None
    problem: BaseException | None = None
    try:
        while True:
            try:
                effect: Effect | Item[Any] = steps.send(reply) if problem is None else steps.throw(problem)
            except StopIteration as stop:
                return stop.value
            reply = problem = None
            try:
                if isinstance(effect, Item):
                    yield effect.value
                else:
                    reply = line.perform(effect, taps)
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:  # interruptions too: there may be something to undo
                problem = error
    finally:
        line.shut(taps)


def _result(running: Generator[Any, None, T]) -> T:
    try:
        next(running)
    except StopIteration as stop:
        return stop.value
    raise TypeError("an operation has one result and no items")


async def _run_awaited(
    line: AsyncLine, steps: Generator[Any, Any, T], result: list[T]
) -> AsyncGenerator[Any]:
    """The same, awaited; what it returns is put into ``result``."""
    from anyio import CancelScope

    cancelled = False
    taps: list[Any] = []
    reply: Any = None
    problem: BaseException | None = None
    try:
        while True:
            try:
                effect: Effect | Item[Any] = steps.send(reply) if problem is None else steps.throw(problem)
            except StopIteration as stop:
                result.append(stop.value)
                return
            reply = problem = None
            try:
                if isinstance(effect, Item):
                    yield effect.value
                elif cancelled:  # what is undone now must not be cancelled again
                    with CancelScope(shield=True):
                        reply = await line.perform(effect, taps)
                else:
                    reply = await line.perform(effect, taps)
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:  # a cancellation too: there may be something to undo
                problem = error
                cancelled = cancelled or not isinstance(error, Exception)
    finally:
        await line.shut(taps)


async def _awaited(line: AsyncLine, steps: Steps[T]) -> T:
    result: list[T] = []
    async for _ in _run_awaited(line, steps, result):
        raise TypeError("an operation has one result and no items")
    return result[0]


class operation(Generic[P, T]):
    """A call with one result."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self.steps = steps
        update_wrapper(self, steps)  # pyright: ignore[reportArgumentType]

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Resource[Sync], kind: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, owner: Resource[Async], kind: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, owner: Resource[Any] | None, kind: type) -> Any:
        if owner is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            steps = self.steps(owner, *args, **kwargs)
            return _awaited(owner.line, steps) if owner.is_async else _result(_run(owner.line, steps))

        return update_wrapper(call, self.steps)


class stream(Generic[P, T]):
    """A call that is iterated over. Close it (or exhaust it) to give its connection back."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self.steps = steps
        update_wrapper(self, steps)  # pyright: ignore[reportArgumentType]

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Resource[Sync], kind: type) -> Callable[P, Generator[T]]: ...
    @overload
    def __get__(self, owner: Resource[Async], kind: type) -> Callable[P, AsyncGenerator[T]]: ...
    def __get__(self, owner: Resource[Any] | None, kind: type) -> Any:
        if owner is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            steps = self.steps(owner, *args, **kwargs)
            return _run_awaited(owner.line, steps, []) if owner.is_async else _run(owner.line, steps)

        return update_wrapper(call, self.steps)


class context(Generic[P, T]):
    """A call that is entered with ``with``: its one item is what it gives, the rest is the way out."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self.steps = steps
        update_wrapper(self, steps)  # pyright: ignore[reportArgumentType]

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Resource[Sync], kind: type) -> Callable[P, AbstractContextManager[T]]: ...
    @overload
    def __get__(self, owner: Resource[Async], kind: type) -> Callable[P, AbstractAsyncContextManager[T]]: ...
    def __get__(self, owner: Resource[Any] | None, kind: type) -> Any:
        if owner is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            steps = self.steps(owner, *args, **kwargs)
            if owner.is_async:
                return asynccontextmanager(_run_awaited)(owner.line, steps, [])
            return contextmanager(_run)(owner.line, steps)

        return update_wrapper(call, self.steps)
