"""Every story, and somebody who comes between: before its first call, its second, ... until the last.

The owner changes their mind, or the world does something, right between two calls of the loop or the
action: what was read is old by then, and what was asked for last is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from tests.failures.gate import Fault, Gate, Point
from tests.failures.house import PACE, House, tell
from tests.failures.stories import NEIGHBOUR, STORIES, SUBJECT, Story, beginning
from tests.failures.test_every_point import SAMPLE
from tests.invariants import Asked
from tests.stock import Stocked

from tidemill.actions.ask import ask
from tidemill.actions.context import Context
from tidemill.actions.news import News
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.errors import Conflict, NotFound, OutOfStock
from tidemill.model.lifecycle import Event, State
from tidemill.settings import Settings

TOLD = (
    "launch with every option",
    "launch that takes its time",
    "start",
    "stop that takes its time",
    "restart that takes its time",
    "terminate",
    "add an ssh key while it runs",
    "its process ends",
    "it vanishes",
    "refused",
    "never reachable",
)
VERBS: dict[Event, Asked] = {
    Event.START: "running",
    Event.STOP: "stopped",
    Event.RESTART: "running",
    Event.TERMINATE: "gone",
}
WORLD: dict[str, Callable[[SimulatedDriver, str], None]] = {
    "its process ends": lambda world, id: world.play_exit(id, 1),
    "it is taken away": lambda world, id: world.play_vanish(id),
}
INTRUDERS = (*VERBS, *WORLD)


@pytest.mark.parametrize("story", [story for story in STORIES if story.name in TOLD], ids=lambda s: s.name)
async def test_whoever_comes_between_whichever_calls(story: Story, stocked: Stocked) -> None:
    start = await beginning(story, stocked)

    async def act(house: House) -> None:
        with suppress(Conflict, NotFound):  # whoever came between forbids it
            await story.act(house)

    async def told(point: Point | None, intruder: Event | str) -> int:
        house = House(stocked, Settings(**{**PACE, **story.settings}))
        await house.begin(start)
        gate = Gate(point, intrude=lambda: _intrude(house, intruder))
        found = await tell(house, act, gate, cold=story.cold)
        assert point is None or gate.struck
        where = f"{intruder} before {gate.calls[point.number - 1] if point else None}"
        assert found == [], where
        neighbour = house.instance(NEIGHBOUR)
        assert (neighbour.state, neighbour.start) == (State.RUNNING, 1), where
        return len(gate.calls)

    calls = await told(None, "nobody")
    pairs = [(number, intruder) for number in range(1, calls + 1) for intruder in INTRUDERS]
    if not stocked.database.is_sqlite:
        pairs = pairs[len(story.name) % SAMPLE :: SAMPLE]
    for number, intruder in pairs:
        await told(Point(number, Fault.NOTHING), intruder)
    print(f"{story.name}: {len(pairs)} interruptions")
    assert calls >= 5


async def _intrude(house: House, intruder: Event | str) -> None:
    """Through another server's API, which this one's troubles do not reach."""
    id = house.names.get(SUBJECT)
    if id is None:  # nobody knows of it yet
        return
    if isinstance(intruder, Event):
        context = Context(
            database=house.database,
            clock=house.clock,
            wake=house.process.context.wake,
            settings=house.settings,
            tokens=house.process.context.tokens,
            drivers={},
            news=News(house.database),
        )
        with suppress(Conflict, NotFound, OutOfStock):
            await ask(context, house.caller(), id, intruder)
            house.asked[id] = VERBS[intruder]
    elif id in house.engine.made:
        WORLD[intruder](house.process.driver, id)
