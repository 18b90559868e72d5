"""Waiting for something to hold, with a deadline and a sentence that says what was awaited."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LEAST = 60.0  # seconds: whoever waits for less has a machine of their own in mind


def until(what: str, probe: Callable[[], T], seconds: float = 30.0, pause: float = 0.1) -> T:
    """The first true value of ``probe``. Raises AssertionError, with the last value, when there is none.

    It is waited for ``LEAST`` seconds at least.
    """
    seconds = max(seconds, LEAST)
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last seen: {value!r}")
        time.sleep(pause)
