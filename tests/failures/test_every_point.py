"""Every story, going wrong at its first call, its second, ... until there is none left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.failures.gate import FAULTS, Fault, Gate, Kind, Point
from tests.failures.house import PACE, House, Start, tell
from tests.failures.stories import NEIGHBOUR, STORIES, SUBJECT, Story, beginning
from tests.stock import Stocked

from tidemill.model.lifecycle import State
from tidemill.settings import Settings

LEAST_CALLS = 5
SAMPLE = 23  # of the points, one of so many on PostgreSQL, where each takes several times as long


@pytest.fixture(scope="module")
def visited() -> Iterator[dict[str, int]]:
    """How many points each story went wrong at."""
    counts: dict[str, int] = {}
    yield counts
    print(f"\n{sum(counts.values())} points of failure visited in {len(counts)} stories")


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_whatever_goes_wrong_at_whatever_call(
    story: Story, stocked: Stocked, visited: dict[str, int]
) -> None:
    start = await beginning(story, stocked)
    smooth = await told(story, stocked, start, None)
    assert len(smooth) >= LEAST_CALLS
    points = [Point(number, fault) for number, (kind, _) in enumerate(smooth, 1) for fault in FAULTS[kind]]
    if not stocked.database.is_sqlite:
        points = points[len(story.name) % SAMPLE :: SAMPLE]
    for point in points:
        await told(story, stocked, start, point)
    visited[f"{story.name} on {stocked.database.url.get_backend_name()}"] = len(points)
    print(f"{story.name}: {len(smooth)} calls, {len(points)} points of failure")
    with pytest.raises(AssertionError, match="was not reached"):
        await told(story, stocked, start, Point(len(smooth) + 1, Fault.NOTHING_DONE))


async def told(story: Story, stocked: Stocked, start: Start, point: Point | None) -> list[tuple[Kind, str]]:
    """Tell the story with something wrong at ``point``; answers the calls of the process it went wrong in."""
    house = House(stocked, Settings(**{**PACE, **story.settings}))
    await house.begin(start)
    gate = Gate(point)
    found = await tell(house, story.act, gate, cold=story.cold)
    where = (
        "nothing went wrong" if point is None else f"{point} ({gate.calls[point.number - 1 : point.number]})"
    )
    assert point is None or gate.struck, f"{where} was not reached"
    assert found == [], where
    subject, neighbour = house.instance(SUBJECT), house.instance(NEIGHBOUR)
    ends = [(story.ends, story.reason)]
    if point is not None and point.fault is Fault.HALF_DONE and story.if_half is not None:
        ends.append((story.if_half, ""))
    assert (subject.state, subject.reason) in ends, where
    assert subject.start == story.start, where
    assert (neighbour.state, neighbour.start) == (State.RUNNING, 1), where
    assert house.engine.made[neighbour.id].starts == [1], where
    return gate.calls
