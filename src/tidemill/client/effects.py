"""What a call needs from the world outside, as values.

A call is a generator that yields these and is sent back what came of each; it does no input or output
itself, so that the same call serves a blocking client, an asynchronous one, and a test with a clock of its
own. :mod:`tidemill.client.kinds` runs them, :mod:`tidemill.client.lines` performs them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One HTTP request. ``quiet_for`` is how many seconds may pass without a byte; None: as usual."""

    method: str
    path: str
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    quiet_for: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Tap(Protocol):
    """An answer that is still coming. Of one that refuses, ``refusal`` is the whole of it.

    ``media_type`` is in lower case and without parameters; "" where the server says none.
    """

    status: int
    refusal: Reply | None
    media_type: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send it and read the whole answer: gives a Reply. Raises NoAnswer."""

    request: Outgoing


@dataclass(frozen=True, slots=True)
class Open:
    """Send it and read the answer bit by bit: gives a Tap. Raises NoAnswer."""

    request: Outgoing


@dataclass(frozen=True, slots=True)
class Read:
    """The next bytes from a tap, None at its end. Raises NoAnswer."""

    tap: Tap


@dataclass(frozen=True, slots=True)
class Sleep:
    """Let so many seconds pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Now:
    """Gives the seconds of a clock that is never set."""


@dataclass(frozen=True, slots=True)
class SignIn:
    """Use this access token from here on; None: no credentials at all."""

    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Item(Generic[T_co]):
    """Not for the outside: the next one of what a stream gives, or what a context begins with."""

    value: T_co


Effect = Send | Open | Read | Sleep | Now | SignIn
Steps = Generator[Effect, Any, T]
Flow = Generator[Effect | Item[T], Any, None]


def last(flow: Flow[T]) -> Steps[T]:
    """The last item of a flow that has one."""
    reply: Any = None
    problem: BaseException | None = None
    found: list[T] = []
    while True:
        try:
            effect = flow.send(reply) if problem is None else flow.throw(problem)
        except StopIteration:
            return found[-1]
        reply = problem = None
        if isinstance(effect, Item):
            found[:] = [effect.value]
            continue
        try:
            reply = yield effect
        except BaseException as error:  # it is the flow's to deal with
            problem = error
