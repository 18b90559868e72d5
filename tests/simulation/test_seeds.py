"""The whole system under seeds: whatever happened, in the end everything is as it has to be."""

from __future__ import annotations

import pytest

from tests.simulation.shrink import shrink
from tests.simulation.story import draw
from tests.simulation.world import simulate

pytestmark = pytest.mark.slow

SEEDS = 400
BATCH = 25


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_seeds(first: int) -> None:
    for seed in range(first, first + BATCH):
        outcome = simulate(draw(seed))
        if outcome.wrong:
            short = shrink(outcome.story, simulate)
            pytest.fail(
                "\n".join(
                    [
                        f"seed {seed} fails (scripts/simulate --seed {seed} tells it whole); told short:",
                        str(short),
                        *simulate(short).wrong,
                    ]
                )
            )
