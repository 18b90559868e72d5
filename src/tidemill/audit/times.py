"""From an instance's history: when it was in a billed state, and when its data disk was kept for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tidemill.model.lifecycle import STATES, State
from tidemill.store.auditing import EventRow


class Time(NamedTuple):
    """From ``since`` to ``until`` in microseconds; None for until now."""

    since: int
    until: int | None


def billed(history: Iterable[EventRow]) -> list[Time]:
    """The times in a billed state."""
    found: list[Time] = []
    since: int | None = None
    for line in history:
        is_billed = STATES[State(line.to_state)].billed
        if is_billed and since is None:
            since = line.at
        elif not is_billed and since is not None:
            found.append(Time(since, line.at))
            since = None
    return found if since is None else [*found, Time(since, None)]


def stored(history: Iterable[EventRow]) -> list[Time]:
    """The times from when it first ran, in states that keep its data disk."""
    found: list[Time] = []
    since: int | None = None
    ran = False
    for line in history:
        row = STATES[State(line.to_state)]
        ran = ran or row.billed
        if row.stores and ran and since is None:
            since = line.at
        elif not row.stores and since is not None:
            found.append(Time(since, line.at))
            since = None
    return found if since is None else [*found, Time(since, None)]
