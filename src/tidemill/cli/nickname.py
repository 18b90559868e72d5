"""Names for instances that nobody named: short, easy to say, and seldom the same twice."""

from __future__ import annotations

import secrets

FIRST = (
    "amber", "brisk", "calm", "clear", "coral", "deep", "early", "fresh", "gentle", "grey", "high", "late",
    "low", "mild", "neap", "north", "pale", "quick", "quiet", "salt", "silver", "slow", "spring", "swift",
    "tidal", "warm", "wide", "wild",
)  # fmt: skip
SECOND = (
    "bay", "beach", "buoy", "canal", "cove", "crab", "creek", "delta", "dock", "dune", "eddy", "ferry",
    "gull", "harbour", "heron", "inlet", "island", "lagoon", "marsh", "mill", "otter", "pier", "reef",
    "river", "sail", "seal", "shoal", "sluice", "strait", "wave", "weir",
)  # fmt: skip


def nickname() -> str:
    """Such as ``quiet-heron-42``: 78,120 there are."""
    return f"{secrets.choice(FIRST)}-{secrets.choice(SECOND)}-{10 + secrets.randbelow(90)}"
