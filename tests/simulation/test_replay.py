"""A seed is the same every time, everywhere; a story can be written down and read again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.story import draw, read
from tests.simulation.world import simulate

REPO = Path(__file__).resolve().parents[2]
SEEDS = (*range(1000, 1012), 400_046)  # the last: two things found at once that are nobody's
DIGESTS = (
    "from tests.simulation.story import draw\nfrom tests.simulation.world import simulate\n"
    f"for seed in {SEEDS!r}: print(simulate(draw(seed)).digest)"
)


def test_twice_in_one_process() -> None:
    for seed in SEEDS:
        simulate(draw(seed + 1))  # whatever was before
        first, second = (simulate(draw(seed), tells=True) for _ in range(2))
        assert first.told == second.told
        assert first.digest == second.digest
        assert first.steps == second.steps


def test_in_processes_that_hash_otherwise() -> None:
    def digests(hash_seed: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", DIGESTS],
            check=True, capture_output=True, text=True, cwd=REPO,
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPO)},
        )  # fmt: skip
        return done.stdout

    assert len(set(digests("1").split())) == len(SEEDS)
    assert digests("1") == digests("2")


@pytest.mark.parametrize("seed", range(20))
def test_a_story_that_is_written_down_is_the_same_story(seed: int) -> None:
    story = draw(seed)
    assert read(str(story)) == story
