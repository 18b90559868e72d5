"""Failures to try by hand: dials that are drawn for each call, as an operator wrote them in one line.

``slow_seconds=0.1:30 refuses=0.01``: one call in ten is 30 seconds on its way, one start in a hundred
is refused. Every instance has a pace of its own, so that not all of them take the very same time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from zlib import crc32

from tidemill.drivers.simulated.dials import Call, Dials
from tidemill.drivers.simulated.engine import Engine
from tidemill.model.observation import InstanceId

SECONDS = 10.0  # of a dial that takes time, where none are named
MESSAGE = "the simulated engine was told to (simulated_faults)"
HIDDEN_SECONDS = 20.0  # how long an instance stays hidden at least
KNOWN = {dial.name: dial.default for dial in fields(Dials)}


@dataclass(frozen=True, slots=True)
class Fault:
    """One dial: how often it is turned, and how far. For ``hides`` the share is of the instances."""

    dial: str
    share: float
    value: float | str | bool


def parse(text: str) -> tuple[Fault, ...]:
    """The faults of one line. Raises ValueError with what is wrong."""
    return tuple(_parse_one(word) for word in text.replace(",", " ").split())


def _parse_one(word: str) -> Fault:
    dial, equals, rest = word.partition("=")
    share, colon, seconds = rest.partition(":")
    if dial not in KNOWN:
        raise ValueError(f"there is no dial {dial!r}; there are: {', '.join(KNOWN)}")
    takes_time = isinstance(KNOWN[dial], float)
    if not equals or (colon and not takes_time):
        example = f"{dial}=0.1:30" if takes_time else f"{dial}=0.1"
        raise ValueError(f"{word!r}: expected a dial and its share of the calls, such as {example}")
    if not 0 <= _number(word, share) <= 1:
        raise ValueError(f"{word!r}: a share is from 0 to 1")
    value: float | str | bool = True
    if takes_time:
        value = _number(word, seconds) if colon else SECONDS
        if not 0 < value < float("inf"):
            raise ValueError(f"{word!r}: expected a number of seconds above 0")
    elif isinstance(KNOWN[dial], str):
        value = MESSAGE
    return Fault(dial, float(share), value)


def _number(word: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{word!r}: {text!r} is not a number") from None


class Drawn:
    """The dials of each call.

    Args:
        usual: what a call is like when nothing goes wrong.
        draw: a number from 0 to below 1, another one each time.
    """

    def __init__(
        self, faults: tuple[Fault, ...], *, usual: Dials, draw: Callable[[], float], engine: Engine
    ) -> None:
        self._faults = faults
        self._usual = usual
        self._draw = draw
        self._engine = engine

    def __call__(self, call: Call, id: InstanceId | None) -> Dials:
        pace = 1.0 if id is None else 0.5 + _fraction(id)
        usual = self._usual
        dials = replace(
            usual,
            start_seconds=usual.start_seconds * pace,
            stop_seconds=usual.stop_seconds * pace,
            pull_seconds=usual.pull_seconds * pace,
        )
        for fault in self._faults:
            if fault.dial == "hides":
                dials.hides = self._hidden(fault.share) if call == "observe" else False
            elif self._draw() < fault.share:
                setattr(dials, fault.dial, fault.value)
        return dials

    def _hidden(self, share: float) -> frozenset[InstanceId]:
        """The same ones for a while, then others."""
        turn = int(self._engine.at // HIDDEN_SECONDS)
        return frozenset(id for id in self._engine.made if _fraction(f"{id}/{turn}") < share)


def _fraction(text: str) -> float:
    """From 0 to below 1, the same for the same text."""
    return crc32(text.encode()) / 2**32
