"""Passwords that cost nothing to compare, for tests in which many are made or tried.

A real one takes a quarter of a second of the processor on purpose. A server that meets a cheap one lets its
user in and makes it anew at the real cost.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest
from argon2 import PasswordHasher

from tidemill.actions import passwords

CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


@contextmanager
def cost(hasher: PasswordHasher) -> Generator[None]:
    """What passwords cost in this process meanwhile."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(passwords, "_HASHER", hasher)
        patched.setattr(passwords, "_DECOY", passwords._decoy())
        yield
