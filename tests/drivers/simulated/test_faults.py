"""Faults as an operator writes them, and how they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from itertools import cycle

import pytest
from tests.drivers.simulated.conftest import NODES, workload
from tests.stock import HandClock

from tidemill.drivers.contract import Refused
from tidemill.drivers.simulated.dials import Dials
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.drivers.simulated.engine import Engine
from tidemill.drivers.simulated.faults import HIDDEN_SECONDS, MESSAGE, Drawn, Fault, parse


def test_a_line_of_faults() -> None:
    assert parse("") == ()
    assert parse("slow_seconds=0.1:30, refuses=0.01  twice=1 half=0") == (
        Fault("slow_seconds", 0.1, 30.0),
        Fault("refuses", 0.01, MESSAGE),
        Fault("twice", 1.0, 10.0),
        Fault("half", 0.0, True),
    )
    for dial in fields(Dials):
        (fault,) = parse(f"{dial.name}=0.5")
        setattr(Dials(), dial.name, fault.value)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("slow", "there is no dial 'slow'; there are: slow_seconds, "),
        ("refuses", "expected a dial and its share of the calls, such as refuses=0.1"),
        ("refuses=", "'' is not a number"),
        ("refuses=often", "'refuses=often': 'often' is not a number"),
        ("refuses=1.5", "a share is from 0 to 1"),
        ("refuses=-1", "a share is from 0 to 1"),
        ("refuses=nan", "a share is from 0 to 1"),
        ("refuses=0.1:3", "such as refuses=0.1"),
        ("slow_seconds=0.1:", "'' is not a number"),
        ("slow_seconds=0.1:0", "a number of seconds above 0"),
        ("slow_seconds=0.1:inf", "a number of seconds above 0"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=r".+") as raised:
        parse("half=0.1 " + line)
    assert why in str(raised.value)


def drawing(*numbers: float) -> Iterator[float]:
    return cycle(numbers)


async def test_each_call_draws_for_itself(clock: HandClock) -> None:
    engine = Engine(NODES, now=clock.monotonic)
    draws = drawing(0.05, 0.2)
    dial = Drawn(parse("refuses=0.1"), usual=Dials(), draw=lambda: next(draws), engine=engine)
    driver = SimulatedDriver(sleep=clock.sleep, engine=engine, dial=dial)
    with pytest.raises(Refused, match="simulated_faults"):
        await driver.ensure_running(workload())
    await driver.ensure_running(workload())
    assert set(driver.made) == {"notebook-1"}


def test_every_instance_has_its_own_pace_and_keeps_it(clock: HandClock) -> None:
    engine = Engine(NODES, now=clock.monotonic)
    usual = Dials(start_seconds=2, pull_seconds=4, stop_seconds=1)
    dial = Drawn((), usual=usual, draw=lambda: 0.0, engine=engine)
    drawn = {id: dial("ensure_running", id) for id in (f"notebook-{number}" for number in range(50))}
    assert len({dials.start_seconds for dials in drawn.values()}) == 50
    for id, dials in drawn.items():
        assert 1 <= dials.start_seconds < 3
        assert dials.pull_seconds == 2 * dials.start_seconds == 4 * dials.stop_seconds
        assert dial("ensure_running", id) == dials


async def test_the_same_instances_are_hidden_for_a_while(clock: HandClock) -> None:
    engine = Engine([], now=clock.monotonic)
    clock.pass_by(-clock.monotonic() % HIDDEN_SECONDS)
    dial = Drawn(parse("hides=0.3"), usual=Dials(), draw=lambda: 0.0, engine=engine)
    driver = SimulatedDriver(sleep=clock.sleep, engine=engine, dial=dial)
    for number in range(100):
        await driver.ensure_running(workload(f"notebook-{number}", node=""))
    seen = [set(await driver.observe())]
    clock.pass_by(HIDDEN_SECONDS - 1)
    await driver.nodes()
    seen.append(set(await driver.observe()))
    clock.pass_by(1)
    await driver.nodes()
    seen.append(set(await driver.observe()))
    assert 55 <= len(seen[0]) <= 85
    assert seen[0] == seen[1] != seen[2]
