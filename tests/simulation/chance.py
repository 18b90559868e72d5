"""All chance of one simulation from its seed, also what the product draws for ids, ports and keys."""

from __future__ import annotations

import os
import random
from collections.abc import Generator
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest.mock import patch


def stream(seed: int, purpose: str) -> Random:
    """A source of its own for each purpose, so that one that draws more does not shift the others."""
    return Random(f"{seed}/{purpose}")


@contextmanager
def drawn_from(seed: int) -> Generator[None]:
    """``uuid4``, ``secrets`` and everything else that asks the system for random bytes, from ``seed``."""
    source = stream(seed, "system")
    seam: Any = random
    with patch.object(os, "urandom", source.randbytes), patch.object(seam, "_urandom", source.randbytes):
        yield
