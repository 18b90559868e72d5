"""The shortest story that still fails as a long one did: by leaving lines out for as long as it does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from tests.simulation.story import Setup, Story
from tests.simulation.world import Outcome

Tell = Callable[[Story], Outcome]
SIMPLER: tuple[tuple[str, object], ...] = (
    ("roles", "all"),
    ("nodes", 1),
    ("skew", 0.0),
    ("latency", 0.001),
    ("start", 0.0),
    ("stop", 0.0),
    ("pull", 0.0),
    ("ports", 40),
    ("cores", 12),
    ("money", "0"),
)


def kinds(outcome: Outcome) -> set[str]:
    """What went wrong, without who and when."""
    return {re.sub(r"notebook-[0-9a-f-]+|\d[\d.:+-]*", "_", sentence)[:60] for sentence in outcome.wrong}


def shrink(story: Story, tell: Tell, *, tries: int = 300) -> Story:
    """A story with fewer lines that fails in the same way; ``tries`` tellings at most."""
    wanted, left = kinds(tell(story)), tries

    def fails(shorter: Story) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and bool(kinds(tell(shorter)) & wanted)

    size = max(1, len(story.acts) // 2)
    while size:
        at, cut = 0, False
        while at < len(story.acts):
            shorter = story.without(story.acts[at : at + size])
            if fails(shorter):
                story, cut = shorter, True
            else:
                at += size
        if not cut or size > 1:
            size //= 2
    for name, value in SIMPLER:
        setup: Setup = replace(story.setup, **{name: value})  # type: ignore[arg-type]
        if setup != story.setup and fails(simpler := replace(story, setup=setup)):
            story = simpler
    return story
