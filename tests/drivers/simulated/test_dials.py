"""Each dial by itself, some together, and that all of them are told of."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
from tests.drivers.simulated.conftest import NODES, Bench, workload
from tests.stock import HandClock

from tidemill.drivers.contract import DriverError, NoRoom, Refused, Unreachable
from tidemill.drivers.simulated.dials import Call, Dials
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.observation import InstanceId, Phase, Seen


async def test_without_any_trouble_a_start_is_reachable_at_once(bench: Bench) -> None:
    await bench.driver.ensure_running(workload(init_script="true"))
    assert await bench.seen() == {"notebook-1": Seen(1, Phase.REACHABLE, init_exit=0)}


async def test_never(bench: Bench) -> None:
    bench.turn(never=True)
    await bench.driver.ensure_running(workload())
    bench.clock.pass_by(10_000)
    assert await bench.phase() is Phase.STARTED


async def test_start_seconds(bench: Bench) -> None:
    bench.turn(start_seconds=5)
    await bench.driver.ensure_running(workload())
    bench.clock.pass_by(4.9)
    assert await bench.phase() is Phase.STARTED
    bench.clock.pass_by(0.1)
    assert await bench.phase() is Phase.REACHABLE


async def test_stop_seconds(bench: Bench) -> None:
    await bench.driver.ensure_running(workload())
    bench.turn(stop_seconds=5)
    for _ in range(3):  # asked again, it does not begin to end anew
        await bench.driver.ensure_stopped("notebook-1")
        bench.clock.pass_by(1.5)
        assert await bench.phase() is Phase.REACHABLE
    bench.clock.pass_by(0.5)
    assert (await bench.seen())["notebook-1"] == Seen(1, Phase.EXITED, exit_code=0)


async def test_a_restart_waits_for_the_older_start_to_end(bench: Bench) -> None:
    await bench.driver.ensure_running(workload())
    bench.turn(stop_seconds=5)
    second = workload(start=2)
    await bench.driver.ensure_running(second)
    bench.clock.pass_by(5)
    assert (await bench.seen())["notebook-1"] == Seen(1, Phase.EXITED, exit_code=0)
    await bench.driver.ensure_running(second)
    assert (await bench.seen())["notebook-1"] == Seen(2, Phase.REACHABLE)


async def test_pull_seconds(bench: Bench) -> None:
    bench.turn(pull_seconds=10)
    await bench.driver.ensure_running(workload())
    percents = []
    for _ in range(5):
        seen = (await bench.seen())["notebook-1"]
        assert seen.phase is Phase.PULLING
        percents.append(seen.percent)
        await bench.driver.ensure_running(workload())  # asked again, it is not fetched anew
        bench.clock.pass_by(2)
    assert percents == [0, 20, 40, 60, 80]
    assert await bench.phase() is Phase.REACHABLE
    await bench.driver.ensure_running(workload(start=2))
    assert await bench.phase() is Phase.REACHABLE, "its image is there"


async def test_what_is_stopped_while_its_image_is_fetched_was_never_there(bench: Bench) -> None:
    bench.turn(pull_seconds=10)
    await bench.driver.ensure_running(workload())
    await bench.driver.ensure_stopped("notebook-1")
    bench.clock.pass_by(100)
    assert await bench.seen() == {}


async def test_pull_fails(bench: Bench) -> None:
    bench.turn(pull_fails="manifest unknown", pull_seconds=1)
    for _ in range(2):
        await bench.driver.ensure_running(workload())
        bench.clock.pass_by(100)
        assert (await bench.seen())["notebook-1"] == Seen(
            1, Phase.PULLING, reason="BackOff", message="manifest unknown"
        )
    bench.turn(pull_seconds=1)
    await bench.driver.ensure_running(workload())
    bench.clock.pass_by(1)
    assert await bench.phase() is Phase.REACHABLE


async def test_unreachable(bench: Bench) -> None:
    bench.turn(unreachable="no answer")
    for call in (
        bench.driver.nodes(),
        bench.driver.observe(),
        bench.driver.ensure_running(workload()),
        bench.driver.ensure_stopped("notebook-1"),
        bench.driver.ensure_absent("notebook-1"),
        anext(bench.driver.logs("notebook-1", follow=False, tail=None)),
    ):
        with pytest.raises(Unreachable, match="no answer"):
            await call
    assert bench.driver.made == {}


async def test_refuses(bench: Bench) -> None:
    bench.turn(refuses="no such runtime")
    with pytest.raises(Refused, match="no such runtime"):
        await bench.driver.ensure_running(workload())
    assert await bench.seen() == {}


async def test_refuses_ends(bench: Bench) -> None:
    await bench.driver.ensure_running(workload())
    bench.turn(refuses_ends="busy")
    for call in (bench.driver.ensure_stopped, bench.driver.ensure_absent):
        with pytest.raises(Refused, match="busy"):
            await call("notebook-1")
    assert await bench.phase() is Phase.REACHABLE


async def test_no_room_is_for_what_does_not_run_yet(bench: Bench) -> None:
    await bench.driver.ensure_running(workload())
    bench.turn(no_room="full")
    await bench.driver.ensure_running(workload())
    with pytest.raises(NoRoom, match="full"):
        await bench.driver.ensure_running(workload("notebook-2"))
    with pytest.raises(NoRoom, match="full"):
        await bench.driver.ensure_running(workload(start=2))


async def test_loses_answer(bench: Bench) -> None:
    bench.turn(loses_answer=True)
    with pytest.raises(Unreachable):
        await bench.driver.ensure_running(workload())
    assert await bench.phase() is Phase.REACHABLE
    with pytest.raises(Unreachable):
        await bench.driver.ensure_stopped("notebook-1")
    assert await bench.phase() is Phase.EXITED
    with pytest.raises(Unreachable):
        await bench.driver.ensure_absent("notebook-1")
    assert await bench.seen() == {}


async def test_half(bench: Bench) -> None:
    async def half(call: object) -> Phase | None:
        bench.turn(half=True)
        with pytest.raises(Unreachable):
            await call  # type: ignore[misc]
        bench.turn()
        return await bench.phase()

    first, second = workload(), workload(start=2)
    assert await half(bench.driver.ensure_running(first)) is Phase.CREATED
    assert await half(bench.driver.ensure_running(first)) is Phase.CREATED
    await bench.driver.ensure_running(first)
    assert await bench.phase() is Phase.REACHABLE
    assert await half(bench.driver.ensure_running(second)) is Phase.EXITED, "the older ended, no newer one"
    assert await half(bench.driver.ensure_running(second)) is Phase.CREATED
    await bench.driver.ensure_running(second)
    assert await half(bench.driver.ensure_stopped("notebook-1")) is Phase.REACHABLE
    assert await half(bench.driver.ensure_absent("notebook-1")) is Phase.EXITED
    await bench.driver.ensure_absent("notebook-1")
    assert await bench.seen() == {}


async def test_slow_seconds(bench: Bench) -> None:
    bench.turn(slow_seconds=3)
    before = bench.clock.monotonic()
    await bench.driver.ensure_running(workload())
    assert bench.clock.monotonic() - before == 3
    assert bench.driver.journal["notebook-1"][0].at == before + 3
    await bench.driver.observe()
    assert bench.clock.monotonic() - before == 6


async def test_a_slow_request_arrives_after_its_caller_has_gone() -> None:
    clock = HandClock()

    async def sleep(seconds: float) -> None:
        await asyncio.Event().wait()

    driver = SimulatedDriver(nodes=NODES, sleep=sleep, now=clock.monotonic)
    driver.dials.slow_seconds = 30
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await driver.ensure_running(workload())
    driver.dials.slow_seconds = 0
    await driver.ensure_absent("notebook-1")
    clock.pass_by(29)
    assert await driver.observe() == {}
    clock.pass_by(1)
    assert set(await driver.observe()) == {"notebook-1"}
    assert driver.made["notebook-1"].uninvited
    await driver.ensure_running(workload())
    assert not driver.made["notebook-1"].uninvited
    assert driver.made["notebook-1"].starts == [1]


async def test_slow_after(bench: Bench) -> None:
    bench.turn(slow_after=3)
    before = bench.clock.monotonic()
    await bench.driver.ensure_running(workload())
    assert bench.clock.monotonic() - before == 3
    assert bench.driver.journal["notebook-1"][0].at == before


async def test_a_listing_that_takes_its_time_is_as_old_as_that(bench: Bench) -> None:
    await bench.driver.ensure_running(workload())

    async def sleep(seconds: float) -> None:
        bench.driver.play_exit("notebook-1")

    bench.driver._sleep = sleep
    bench.turn(slow_after=3)
    assert (await bench.seen())["notebook-1"].phase is Phase.REACHABLE
    bench.turn()
    assert await bench.phase() is Phase.EXITED


async def test_twice_brings_back_what_was_removed(bench: Bench) -> None:
    bench.turn(twice=7)
    await bench.driver.ensure_running(workload())
    bench.turn()
    await bench.driver.ensure_absent("notebook-1")
    bench.clock.pass_by(6.9)
    assert await bench.seen() == {}
    bench.clock.pass_by(0.1)
    assert await bench.phase() is Phase.REACHABLE
    assert bench.driver.made["notebook-1"].uninvited
    await bench.driver.ensure_absent("notebook-1")
    bench.clock.pass_by(100)
    assert await bench.seen() == {}


async def test_twice_ends_a_later_start_and_leaves_it_when_the_request_names_an_older_one(
    bench: Bench,
) -> None:
    bench.turn(twice=5)
    await bench.driver.ensure_running(workload())
    await bench.driver.ensure_running(workload(start=2))
    bench.clock.pass_by(5)
    assert (await bench.seen())["notebook-1"] == Seen(2, Phase.REACHABLE)
    assert bench.driver.made["notebook-1"].starts == [1, 2]
    await bench.driver.ensure_stopped("notebook-1")
    bench.turn()
    await bench.driver.ensure_running(workload(start=3))
    bench.clock.pass_by(5)
    assert (await bench.seen())["notebook-1"] == Seen(3, Phase.EXITED, exit_code=0)


async def test_hides(bench: Bench) -> None:
    for id in ("notebook-1", "notebook-2"):
        await bench.driver.ensure_running(workload(id))
    bench.turn(hides=frozenset({"notebook-1", "notebook-3"}))
    assert set(await bench.seen()) == {"notebook-2"}
    bench.turn(hides=True)
    assert await bench.seen() == {}
    bench.turn()
    assert set(await bench.seen()) == {"notebook-1", "notebook-2"}


async def test_shows_old(bench: Bench) -> None:
    await bench.driver.ensure_running(workload())
    bench.clock.pass_by(10)
    bench.driver.play_exit("notebook-1", 3)
    await bench.driver.ensure_running(workload("notebook-2"))
    bench.clock.pass_by(10)
    await bench.driver.ensure_absent("notebook-1")
    now = await bench.seen()
    bench.turn(shows_old=5)
    then = await bench.seen()
    bench.turn(shows_old=15)
    first = await bench.seen()
    bench.turn(shows_old=1000)
    assert await bench.seen() == {}
    assert first == {"notebook-1": Seen(1, Phase.REACHABLE)}
    assert then == {
        "notebook-1": Seen(1, Phase.EXITED, exit_code=3),
        "notebook-2": Seen(1, Phase.REACHABLE),
    }
    assert now == {"notebook-2": Seen(1, Phase.REACHABLE)}


async def test_what_takes_time_needs_a_clock() -> None:
    for dials in (Dials(start_seconds=1), Dials(pull_seconds=1), Dials(twice=1), Dials(never=True, twice=1)):
        driver = SimulatedDriver(nodes=NODES, sleep=asyncio.sleep)
        driver.dials = dials
        with pytest.raises(ValueError, match="now"):
            await driver.ensure_running(workload())


async def test_dials_are_drawn_for_each_call(clock: HandClock) -> None:
    drawn: list[tuple[Call, InstanceId | None]] = []

    def dial(call: Call, id: InstanceId | None) -> Dials:
        drawn.append((call, id))
        return Dials(unreachable="away" if call == "observe" else "", never=id == "notebook-2")

    driver = SimulatedDriver(nodes=NODES, sleep=clock.sleep, now=clock.monotonic, dial=dial)
    await driver.ensure_running(workload())
    await driver.ensure_running(workload("notebook-2"))
    with pytest.raises(Unreachable):
        await driver.observe()
    assert [made.seen.phase for made in driver.made.values()] == [Phase.REACHABLE, Phase.STARTED]
    assert drawn == [("ensure_running", "notebook-1"), ("ensure_running", "notebook-2"), ("observe", None)]


SOME: dict[str, object] = {
    "slow_seconds": 0.5,
    "slow_after": 0.25,
    "unreachable": "away",
    "loses_answer": True,
    "half": True,
    "twice": 3.0,
    "refuses": "refused",
    "refuses_ends": "busy",
    "no_room": "full",
    "never": True,
    "start_seconds": 2.0,
    "stop_seconds": 2.0,
    "pull_seconds": 2.0,
    "pull_fails": "manifest unknown",
    "hides": True,
    "shows_old": 4.0,
}


async def test_any_two_dials_go_together_and_an_engine_gets_over_them(clock: HandClock) -> None:
    """Whatever went on, once the dials are back, asking again brings about what is wanted."""
    assert set(SOME) == {dial.name for dial in fields(Dials)}
    for one, how in SOME.items():
        for other, also in SOME.items():
            driver = SimulatedDriver(nodes=NODES, sleep=clock.sleep, now=clock.monotonic)
            dials = Dials(**{one: how, other: also})  # type: ignore[arg-type]
            for number, call in enumerate((driver.ensure_running, driver.ensure_stopped) * 2):
                driver.dials = dials
                with suppress(DriverError):
                    await call(workload(start=number + 1) if number % 2 == 0 else "notebook-1")  # type: ignore[arg-type]
                with suppress(DriverError):
                    await driver.observe()
                clock.pass_by(0.7)
            driver.dials = Dials()
            clock.pass_by(10)
            last = workload(start=9)
            await driver.ensure_running(last)
            assert (await driver.observe())["notebook-1"] == Seen(9, Phase.REACHABLE), (one, other)
            await driver.ensure_absent("notebook-1")
            assert driver.made == {}, (one, other)
            assert driver.violations == [], (one, other)


def test_the_table_of_dials_is_whole() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "drivers.md").read_text("utf-8")
    told = page[page.index("| dial |") : page.index("| the world around it |")]
    assert re.findall(r"^\| `(\w+)`", told, re.MULTILINE) == [dial.name for dial in fields(Dials)]


def test_the_table_of_the_world_is_whole() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "drivers.md").read_text("utf-8")
    told = set(re.findall(r"`(play_\w+)\(", page[page.index("| the world around it |") :]))
    assert told == {name for name in dir(SimulatedDriver) if name.startswith("play_")}
