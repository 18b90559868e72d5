"""What happens around a simulated engine, what its machines can hold, and what it writes down."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.drivers.simulated.conftest import NODES, Bench, workload
from tests.stock import HandClock

from tidemill.drivers.contract import Device, NoRoom, Port, Refused, Unreachable
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.drivers.simulated.engine import Engine
from tidemill.drivers.simulated.journal import Moment, spans
from tidemill.model.observation import Phase, Seen

GPU = Device("gpu-0", "H100")


async def test_what_vanished_comes_back_as_it_was(bench: Bench) -> None:
    await bench.driver.ensure_running(workload())
    bench.driver.play_vanish("notebook-1")
    assert await bench.seen() == {}
    assert bench.driver.play_return("notebook-1")
    assert await bench.seen() == {"notebook-1": Seen(1, Phase.REACHABLE)}
    assert bench.driver.made["notebook-1"].uninvited


@pytest.mark.parametrize("away", [1, 9])
async def test_what_comes_back_while_it_comes_up_comes_up(bench: Bench, away: float) -> None:
    bench.turn(start_seconds=8)
    await bench.driver.ensure_running(workload())
    bench.driver.play_vanish("notebook-1")
    bench.clock.pass_by(away)
    assert await bench.seen() == {}
    assert bench.driver.play_return("notebook-1")
    bench.clock.pass_by(8 - min(away, 8))
    assert await bench.phase() is Phase.REACHABLE


async def test_what_comes_back_ends_as_it_was_to_end(bench: Bench) -> None:
    await bench.driver.ensure_running(workload())
    bench.turn(stop_seconds=5)
    await bench.driver.ensure_stopped("notebook-1")
    bench.driver.play_vanish("notebook-1")
    assert bench.driver.play_return("notebook-1")
    assert await bench.phase() is Phase.REACHABLE
    bench.clock.pass_by(5)
    assert await bench.phase() is Phase.EXITED


async def test_what_comes_back_and_is_asked_for_a_later_start_forgets_the_earlier(bench: Bench) -> None:
    bench.turn(pull_seconds=10)
    await bench.driver.ensure_running(workload())
    bench.driver.play_vanish("notebook-1")
    assert bench.driver.play_return("notebook-1")
    bench.turn(half=True)
    with pytest.raises(Unreachable):
        await bench.driver.ensure_running(workload(start=2))
    bench.clock.pass_by(10)
    assert (await bench.seen())["notebook-1"] == Seen(2, Phase.CREATED)


async def test_what_comes_back_finds_its_name_taken(bench: Bench) -> None:
    await bench.driver.ensure_running(workload())
    bench.driver.play_vanish("notebook-1")
    await bench.driver.ensure_running(workload(start=2))
    assert not bench.driver.play_return("notebook-1")
    assert await bench.seen() == {"notebook-1": Seen(2, Phase.REACHABLE)}


@pytest.mark.parametrize("start_seconds", [0, 8])
async def test_what_comes_back_and_finds_its_device_taken_does_not_run(
    bench: Bench, start_seconds: float
) -> None:
    bench.turn(start_seconds=start_seconds)
    await bench.driver.ensure_running(workload(devices=(GPU,)))
    bench.driver.play_vanish("notebook-1")
    await bench.driver.ensure_running(workload("notebook-2", devices=(GPU,)))
    assert bench.driver.play_return("notebook-1")
    assert await bench.phase() is Phase.EXITED
    bench.clock.pass_by(8)
    assert await bench.phase() is Phase.EXITED
    assert bench.driver.violations == []


async def test_a_reclaimed_machine_gives_notice(bench: Bench) -> None:
    await bench.driver.ensure_running(workload())
    bench.driver.play_reclaim("notebook-1", notice_seconds=30)
    told = (await bench.seen())["notebook-1"]
    assert (told.phase, told.reason) == (Phase.REACHABLE, "Reclaiming")
    assert "in 30 s" in told.message
    bench.clock.pass_by(30)
    gone = (await bench.seen())["notebook-1"]
    assert (gone.phase, gone.reason) == (Phase.EXITED, "Reclaimed")


async def test_a_lost_machine_takes_its_instances_out_of_view_and_they_run_on(bench: Bench) -> None:
    bench.turn(start_seconds=5)
    await bench.driver.ensure_running(workload())
    await bench.driver.ensure_running(workload("notebook-2", node="right"))
    bench.driver.play_node_lost("left")
    assert set(await bench.seen()) == {"notebook-2"}
    assert [node.name for node in await bench.driver.nodes()] == ["right"]
    for call in (
        bench.driver.ensure_running(workload(start=2)),
        bench.driver.ensure_running(workload("notebook-3")),
        bench.driver.ensure_stopped("notebook-1"),
        bench.driver.ensure_absent("notebook-1"),
    ):
        with pytest.raises(Unreachable, match="left"):
            await call
    bench.clock.pass_by(5)
    assert set(await bench.seen()) == {"notebook-2"}
    bench.driver.play_node_back("left")
    assert (await bench.seen())["notebook-1"] == Seen(1, Phase.REACHABLE)
    assert spans(bench.driver.journal["notebook-1"]) == [(bench.clock.monotonic() - 5, None)]


async def test_a_reboot_ends_everything_and_loses_what_was_on_its_way(bench: Bench) -> None:
    bench.turn(twice=5)
    await bench.driver.ensure_running(workload())
    await bench.driver.ensure_running(workload("notebook-2", start=4))
    bench.turn(pull_seconds=10)
    await bench.driver.ensure_running(workload("notebook-3"))
    bench.driver.play_reboot()
    ended = await bench.seen()
    assert {id: (seen.phase, seen.start, seen.exit_code) for id, seen in ended.items()} == {
        "notebook-1": (Phase.EXITED, 1, 137),
        "notebook-2": (Phase.EXITED, 4, 137),
    }
    await bench.driver.ensure_absent("notebook-1")
    bench.clock.pass_by(100)
    assert set(await bench.seen()) == {"notebook-2"}


async def test_a_stray_is_there_and_can_be_removed(bench: Bench) -> None:
    bench.driver.play_stray(workload("notebook-9"))
    assert await bench.phase("notebook-9") is Phase.REACHABLE
    await bench.driver.ensure_absent("notebook-9")
    assert await bench.seen() == {}


@pytest.mark.parametrize(
    ("what", "mine", "theirs"),
    [
        ("cpu", {"cpu": 3.0}, {"cpu": 1.5}),
        ("memory", {"memory_mb": 4000}, {"memory_mb": 97}),
        ("disk", {"data_disk_gb": 60}, {"data_disk_gb": 60}),
        ("device", {"devices": (GPU,)}, {"devices": (GPU,)}),
        ("port", {"ports": (Port(22, 31000),)}, {"ports": (Port(80, 31000),)}),
    ],
)
async def test_a_machine_gives_out_no_more_than_it_has(
    bench: Bench, what: str, mine: dict[str, object], theirs: dict[str, object]
) -> None:
    driver = bench.driver
    await driver.ensure_running(workload(**mine))
    with pytest.raises(NoRoom, match="left"):
        await driver.ensure_running(workload("notebook-2", **theirs))
    assert set(await bench.seen()) == {"notebook-1"}
    told = [(violation.id, violation.node, violation.clash.what) for violation in driver.violations]
    assert told == ([] if what == "disk" else [("notebook-2", "left", what)]), "disks are nobody's promise"
    await driver.ensure_running(workload("notebook-2", **(theirs | {"node": "right"})))
    await driver.ensure_running(workload(start=2, **mine))  # its own share is no matter
    await driver.ensure_stopped("notebook-1")
    if what == "disk":  # it is kept over a stop
        await driver.ensure_absent("notebook-1")
    await driver.ensure_running(workload("notebook-3", **theirs))
    assert len(driver.violations) == len(told)


async def test_no_more_of_a_core_than_it_may_be_given_out(clock: HandClock) -> None:
    driver = SimulatedDriver(sleep=clock.sleep, engine=Engine(NODES, cpu_overcommit=1.5))
    for number in range(6):
        await driver.ensure_running(workload(f"notebook-{number}"))
    with pytest.raises(NoRoom):
        await driver.ensure_running(workload("notebook-6"))


async def test_what_nobody_could_have_known_is_no_violation(bench: Bench) -> None:
    bench.turn(twice=5)
    await bench.driver.ensure_running(workload(devices=(GPU,)))
    bench.turn()
    await bench.driver.ensure_absent("notebook-1")
    bench.clock.pass_by(5)
    with pytest.raises(NoRoom):
        await bench.driver.ensure_running(workload("notebook-2", devices=(GPU,)))
    assert bench.driver.violations == []
    await bench.driver.ensure_running(workload(devices=(GPU,)))  # asked for: it is meant
    with pytest.raises(NoRoom):
        await bench.driver.ensure_running(workload("notebook-2", devices=(GPU,)))
    assert [violation.clash.holder for violation in bench.driver.violations] == ["notebook-1"]


async def test_a_device_or_a_machine_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(Refused, match="gpu-7"):
        await bench.driver.ensure_running(workload(devices=(Device("gpu-7", "H100"),)))
    with pytest.raises(NoRoom, match="nowhere"):
        await bench.driver.ensure_running(workload(node="nowhere"))


async def test_without_a_node_it_places_by_itself_and_without_nodes_it_has_no_bounds(
    bench: Bench, clock: HandClock
) -> None:
    for number in range(8):
        await bench.driver.ensure_running(workload(f"notebook-{number}", node="", ports=()))
    assert [made.node for made in bench.driver.made.values()] == ["left"] * 4 + ["right"] * 4
    with pytest.raises(NoRoom):
        await bench.driver.ensure_running(workload("notebook-8", node="", ports=()))
    boundless = SimulatedDriver(sleep=clock.sleep)
    for number in range(100):
        await boundless.ensure_running(workload(f"notebook-{number}", devices=(GPU,)))
    assert len(await boundless.observe()) == 100


async def test_the_journal_says_what_really_ran(bench: Bench) -> None:
    driver, clock = bench.driver, bench.clock
    origin = clock.monotonic()
    bench.turn(start_seconds=2, pull_seconds=5)
    await driver.ensure_running(workload())
    clock.pass_by(100)  # nobody looks meanwhile
    driver.play_exit("notebook-1")
    clock.pass_by(10)
    await driver.ensure_running(workload(start=2))
    clock.pass_by(10)
    await driver.ensure_absent("notebook-1")
    assert driver.journal["notebook-1"] == [
        Moment(origin, Phase.PULLING, 1),
        Moment(origin + 5, Phase.STARTED, 1),
        Moment(origin + 7, Phase.REACHABLE, 1),
        Moment(origin + 100, Phase.EXITED, 1),
        Moment(origin + 110, Phase.STARTED, 2),
        Moment(origin + 112, Phase.REACHABLE, 2),
        Moment(origin + 120, None, 2),
    ]
    assert spans(driver.journal["notebook-1"]) == [(origin + 5, origin + 100), (origin + 110, origin + 120)]
    reachable = spans(driver.journal["notebook-1"], {Phase.REACHABLE})
    assert reachable == [(origin + 7, origin + 100), (origin + 112, origin + 120)]


async def test_two_drivers_see_one_engine_and_it_outlives_them(clock: HandClock) -> None:
    engine = Engine(NODES, now=clock.monotonic)
    first = SimulatedDriver(sleep=clock.sleep, engine=engine)
    first.dials.start_seconds = 5
    await first.ensure_running(workload())
    await first.close()
    clock.pass_by(5)
    second = SimulatedDriver(sleep=clock.sleep, engine=engine)
    assert await second.observe() == {"notebook-1": Seen(1, Phase.REACHABLE)}


async def test_who_listens_hears_of_what_comes_by_itself() -> None:
    loop = asyncio.get_running_loop()
    driver = SimulatedDriver(nodes=NODES, sleep=asyncio.sleep, now=loop.time)
    hints = driver.changes()
    first = asyncio.create_task(anext(hints))
    await asyncio.sleep(0)
    driver.dials.start_seconds = 1000
    await driver.ensure_running(workload())
    async with asyncio.timeout(30):
        await first
        for _ in range(5):  # whoever waits for what is due waits for the later one
            await asyncio.sleep(0)
        driver.dials.start_seconds = 0.05
        await driver.ensure_running(workload("notebook-2"))
        while (await driver.observe())["notebook-2"].phase is not Phase.REACHABLE:
            await anext(hints)
    await hints.aclose()


async def test_objects_that_did_not_change_are_the_very_same(bench: Bench) -> None:
    for number in range(3):
        await bench.driver.ensure_running(workload(f"notebook-{number}"))
    before = await bench.seen()
    await bench.driver.ensure_stopped("notebook-1")
    after = await bench.seen()
    assert [after[id] is before[id] for id in before] == [True, False, True]
    assert before["notebook-1"].phase is Phase.REACHABLE, "a listing does not change under its reader"


async def test_the_same_story_is_told_the_same_way(clock: HandClock) -> None:
    def story() -> tuple[SimulatedDriver, HandClock]:
        own = HandClock()
        return SimulatedDriver(nodes=NODES, sleep=own.sleep, now=own.monotonic), own

    told = []
    for driver, own in (story(), story()):
        driver.dials = replace(driver.dials, twice=3, start_seconds=1, pull_seconds=2)
        for number in range(4):
            await driver.ensure_running(workload(f"notebook-{number}"))
            own.pass_by(0.7)
        await driver.ensure_absent("notebook-2")
        own.pass_by(10)
        told.append((dict(driver.journal), list((await driver.observe()).items())))
    assert told[0] == told[1]
