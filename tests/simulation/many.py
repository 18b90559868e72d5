"""Many seeds over several processes, and what came of them in one summary; also one seed, closely."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tests.simulation.shrink import shrink
from tests.simulation.story import Story, draw, read
from tests.simulation.world import Outcome, simulate

CHUNK = 50
SHRUNK_MOST = 5  # failures that are told short; the others by their seed


@dataclass
class Tally:
    """What came of a number of seeds."""

    seeds: int = 0
    counts: Counter[str] = field(default_factory=Counter[str])
    failed: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    steps: int = 0
    virtual: float = 0.0
    cpu: float = 0.0

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.counts += other.counts
        self.failed |= other.failed
        self.steps += other.steps
        self.virtual += other.virtual
        self.cpu += other.cpu


def run_chunk(seeds: range) -> Tally:
    """One process's share."""
    tally, began = Tally(), time.process_time()
    for seed in seeds:
        outcome = simulate(draw(seed))
        tally.seeds += 1
        tally.counts += outcome.counts
        tally.steps += outcome.steps
        tally.virtual += outcome.seconds
        if outcome.wrong:
            tally.failed[seed] = outcome.wrong
    gc.collect()
    tally.cpu = time.process_time() - began
    return tally


def run_many(first: int, count: int, workers: int, *, failures_most: int) -> Tally:
    """Seeds ``first`` and on, telling how far it is."""
    total, began = Tally(), time.monotonic()
    chunks = iter([range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)])
    for tally in _map(chunks, workers):
        total.add(tally)
        for seed, wrong in tally.failed.items():
            print(f"\nseed {seed} fails: {wrong[0]}", flush=True)
        rate = total.seeds / (time.monotonic() - began)
        print(
            f"\r{total.seeds:,} of {count:,} seeds, {rate:.1f}/s, {len(total.failed)} failed  ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        if len(total.failed) >= failures_most:
            break
    print(file=sys.stderr)
    return total


def _map(chunks: Iterator[range], workers: int) -> Iterator[Tally]:
    if workers == 1:
        yield from map(run_chunk, chunks)
        return
    with ProcessPoolExecutor(workers, max_tasks_per_child=200) as pool:
        while batch := list(islice(chunks, workers * 4)):
            yield from pool.map(run_chunk, batch)


def summary(tally: Tally, wall: float) -> str:
    """The figures, for keeping."""
    counts = tally.counts
    lines = [
        f"{tally.seeds:,} seeds, {len(tally.failed)} failed; {wall:.0f} s, {tally.cpu:.0f} s of CPU "
        f"({1000 * tally.cpu / max(1, tally.seeds):.0f} ms a seed); "
        f"{tally.virtual / 3600:,.0f} h of virtual time, {tally.steps:,} steps",
    ]
    for group in sorted({name.partition(":")[0] for name in counts}):
        mine = {name.partition(": ")[2]: n for name, n in counts.items() if name.startswith(group + ":")}
        words = ", ".join(f"{name} {n:,}" for name, n in sorted(mine.items(), key=lambda item: -item[1]))
        lines.append(f"{group} ({sum(mine.values()):,}): {words}")
    return "\n".join(lines)


def tell(story: Story) -> Outcome:
    """One story, line by line."""
    outcome = simulate(story, tells=True)
    print(*outcome.told, sep="\n")
    print(f"digest {outcome.digest}")
    print("\n".join(outcome.wrong) or "nothing is wrong")
    return outcome


def tell_short(story: Story) -> None:
    """A failing story, shrunk."""
    short = shrink(story, simulate)
    outcome = simulate(short)
    print(f"\n# seed {story.seed} with {len(short.acts)} of {len(story.acts)} acts")
    print(short)
    print("\n".join("# " + sentence for sentence in outcome.wrong))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate", description="Run the whole system under seeds, in virtual time."
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds (default 1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them (default 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--failures", type=int, default=20, help="stop after so many failures")
    parser.add_argument("--seed", type=int, default=-1, help="tell this one, line by line")
    parser.add_argument("--story", type=Path, help="tell the story in this file, line by line")
    parser.add_argument("--short", action="store_true", help="with --seed or --story: shrink it first")
    given = parser.parse_args()
    if given.seed >= 0 or given.story is not None:
        story = draw(given.seed) if given.story is None else read(given.story.read_text())
        if given.short:
            story = shrink(story, simulate)
        print(story)
        return 1 if tell(story).wrong else 0
    began = time.monotonic()
    total = run_many(given.first, given.seeds, given.workers, failures_most=given.failures)
    print(summary(total, time.monotonic() - began))
    for seed in list(total.failed)[:SHRUNK_MOST]:
        tell_short(draw(seed))
    return 1 if total.failed else 0
