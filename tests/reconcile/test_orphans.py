"""What nobody wants is removed after its grace, and nothing else is, whatever clocks and servers do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from tests.reconcile.house import NODE, House, settle
from tests.stock import START, HandClock, Stocked

from tidemill.drivers.contract import Refused, Trace, Unreachable
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.lifecycle import Event, State
from tidemill.model.observation import InstanceId, Seen
from tidemill.reconcile.loop import Loop
from tidemill.reconcile.orphans import Unwanted, weigh
from tidemill.settings import Settings
from tidemill.store import facts, findings
from tidemill.store.findings import Finding
from tidemill.store.schema import instances as instance_rows

UNKNOWN = "notebook-0f5a2c1e-0000-4000-8000-0000000000ff"


class Keeping(SimulatedDriver):
    """An engine that also keeps things beside instances, and that can be slow or unwilling with orphans."""

    def __init__(self, house_clock: HandClock) -> None:
        super().__init__(nodes=[NODE], sleep=house_clock.sleep)
        self.kept: list[Trace] = []
        self.erased: list[str] = []
        self.traces_fail = ""
        self.folder = "/"
        self.refuses_orphans = ""
        self.hangs_on: set[InstanceId] = set()

    async def ensure_absent(self, id: InstanceId) -> None:
        if id in self.hangs_on:
            await asyncio.Event().wait()
        if self.refuses_orphans:
            raise Refused(self.refuses_orphans)
        self.erased.append(id)
        await super().ensure_absent(id)

    async def traces(self) -> Sequence[Trace]:
        if self.traces_fail:
            raise Unreachable(self.traces_fail)
        return list(self.kept)

    def shows(self, kind: str, name: str) -> bool:
        return not name.startswith("/") or name.startswith(self.folder)

    async def erase(self, trace: Trace) -> None:
        if self.refuses_orphans:
            raise Refused(self.refuses_orphans)
        self.erased.append(trace.name)
        self.kept.remove(trace)


@pytest.fixture
async def keeping(stocked: Stocked, clock: HandClock) -> AsyncIterator[tuple[House, Keeping]]:
    driver = Keeping(clock)
    yield House(stocked, clock, driver, Settings()), driver
    await driver.close()


async def running(house: House, loop: Loop) -> str:
    id = house.launch()
    await house.until_state(loop, id, State.RUNNING)
    return id


async def plant(house: House, like: str, id: str = UNKNOWN) -> None:
    """Something of ours that the engine runs and nobody wants."""
    await house.driver.ensure_running(replace(house.driver.made[like].workload, id=id, ports=()))


async def full_pass(house: House, loop: Loop, seconds: float = 61) -> None:
    house.clock.pass_by(seconds)
    await loop.run_pass()
    await settle(loop)


def open_findings(house: House) -> list[Finding]:
    return house.stocked.database.run(lambda c: findings.open_in(c, house.loops[0]._region_id))


def ended_findings(house: House) -> list[Finding]:
    return house.stocked.database.run(lambda c: findings.ended(c, since=START, limit=100))


async def test_an_unknown_one_is_found_watched_and_removed(house: House) -> None:
    loop = house.loop()
    id = await running(house, loop)
    await plant(house, id)
    await full_pass(house, loop)
    (found,) = open_findings(house)
    assert (found.kind, found.name, found.watched) == ("instance", UNKNOWN, 0)
    assert UNKNOWN in house.driver.made
    await full_pass(house, loop)
    assert set(house.driver.made) == {id}
    assert open_findings(house) == []
    (over,) = ended_findings(house)
    assert (over.name, over.outcome, over.ended_at) == (UNKNOWN, "removed", house.clock.now())
    text = loop._metrics.text().decode()
    assert f'tidemill_orphans_found_total{{kind="instance",region="{loop._region_id}"}} 1.0' in text
    assert f'tidemill_orphans_removed_total{{kind="instance",region="{loop._region_id}"}} 1.0' in text


async def test_what_comes_back_after_its_release_is_removed_and_its_history_says_so(house: House) -> None:
    """An engine that carries out a create whose caller died long ago."""
    loop = house.loop()
    id, other = await running(house, loop), await running(house, loop)
    house.ask(id, Event.TERMINATE)
    await house.until_state(loop, id, State.RELEASED)
    await plant(house, other, id)
    await full_pass(house, loop)
    await full_pass(house, loop)
    assert set(house.driver.made) == {other}
    assert house.events(id)[-1] == "leftoverRemoved"
    assert house.get(id).state is State.RELEASED


async def test_the_grace_survives_restarts(house: House) -> None:
    """Each server lives for 25 s: none of them sees the whole grace."""
    id = await running(house, house.loop())
    await plant(house, id)
    for lives in range(10):
        await full_pass(house, house.loop(), 25)
        if UNKNOWN not in house.driver.made:
            assert lives == 3
            return
    pytest.fail("it was never removed")


async def test_several_servers_count_the_grace_once(house: House) -> None:
    house.settings = Settings(orphan_grace=200)
    loops = [house.loop() for _ in range(3)]
    id = await running(house, loops[0])
    await plant(house, id)
    found_at = None
    while UNKNOWN in house.driver.made:
        house.clock.pass_by(21)
        for loop in loops:
            await loop.run_pass()
            await settle(loop)
        found_at = found_at or next((one.found_at for one in open_findings(house)), None)
    assert found_at is not None
    assert 200 <= (house.clock.now() - found_at).total_seconds() <= 200 + 61 + 21
    assert len(ended_findings(house)) == 1


@pytest.mark.parametrize("step", [-7200, -3600, 3600, 7200])
async def test_a_clock_that_is_set_uses_no_grace_up(house: House, step: float) -> None:
    """``step`` is how far back it is set; negative is forward. The grace is 200 s of real time."""
    house.settings = Settings(orphan_grace=200)
    loop = house.loop()
    id = await running(house, loop)
    await plant(house, id)
    await full_pass(house, loop)
    for _ in range(3):
        house.clock.set_back(step)
        await full_pass(house, loop)
    assert UNKNOWN in house.driver.made
    await full_pass(house, loop)
    assert UNKNOWN not in house.driver.made


async def test_time_in_which_nobody_looked_counts_little(house: House) -> None:
    house.settings = Settings(orphan_grace=200)
    id = await running(house, house.loop())
    await plant(house, id)
    await full_pass(house, house.loop())
    await full_pass(house, house.loop(), 24 * 3600)
    (found,) = open_findings(house)
    assert found.watched == house.settings.full_pass


async def test_what_another_server_has_just_launched_is_never_an_orphan(
    keeping: tuple[House, Keeping],
) -> None:
    """Launched and made between our listing and our reading of the database, without any grace."""
    house, driver = keeping
    house.settings = Settings(orphan_grace=0)
    loop, other = house.loop(), house.loop()
    await running(house, other)
    made: list[str] = []
    listing = driver.observe

    async def listing_then_launch() -> Mapping[InstanceId, Seen]:
        driver.observe = listing  # type: ignore[method-assign]
        listed = await listing()
        made.append(house.launch())
        await other.run_pass()
        await settle(other)
        # what was made in the meantime is in a listing that takes its time
        return listed | {id: driver.made[id].seen for id in made}

    for _ in range(5):
        driver.observe = listing_then_launch  # type: ignore[method-assign]
        await full_pass(house, loop)
    assert len(made) == 5
    assert set(made) <= set(driver.made)
    assert not set(made) & set(driver.erased)
    assert open_findings(house) == []


async def test_one_that_is_wanted_after_all_is_not_removed(house: House) -> None:
    """The database is asked once more right before the removal."""
    loop = house.loop()
    id = await running(house, loop)
    house.ask(id, Event.TERMINATE)
    await house.until_state(loop, id, State.RELEASED)
    other = await running(house, loop)
    await plant(house, other, id)
    unwanted = await loop._orphans.unwanted({id, other})
    await loop._orphans.write_down(unwanted)
    (found,) = open_findings(house)
    house.stocked.database.run(  # as a restore in place would
        lambda c: c.execute(update(instance_rows).where(instance_rows.c.id == id).values(state="Running"))
    )
    assert await loop._orphans.remove(found, unwanted.things["instance", id]) == "an instance wants it"
    assert id in house.driver.made


async def test_after_a_restore_orphans_are_only_reported(house: House) -> None:
    loop = house.loop()
    id = await running(house, loop)
    await plant(house, id)
    house.stocked.database.run(lambda c: facts.put(c, facts.RESTORED_AT, house.clock.now().isoformat()))
    for _ in range(5):
        await full_pass(house, loop)
    assert UNKNOWN in house.driver.made
    (found,) = open_findings(house)
    assert found.watched >= house.settings.orphan_grace
    assert "restored" in await loop._orphans.remove(found, Trace("instance", UNKNOWN, UNKNOWN))
    house.stocked.database.run(lambda c: facts.drop(c, facts.RESTORED_AT))
    await full_pass(house, loop)
    assert set(house.driver.made) == {id}


async def test_a_database_that_never_had_an_instance_removes_nothing(
    keeping: tuple[House, Keeping],
) -> None:
    """A server that was started on the wrong or a lost database must not take what runs with it."""
    house, driver = keeping
    driver.kept.append(Trace("disk", f"{UNKNOWN}.img", UNKNOWN))
    loop = house.loop()
    for _ in range(5):
        await full_pass(house, loop)
    assert driver.erased == []
    assert [found.name for found in open_findings(house)] == [f"{UNKNOWN}.img"]


async def test_traces_are_wanted_with_their_instance_or_tenant(keeping: tuple[House, Keeping]) -> None:
    house, driver = keeping
    loop = house.loop()
    id = await running(house, loop)
    alice, bob = house.stocked.alice.id, house.stocked.bob.id
    theirs = [Trace("disk", f"{id}.img", id), Trace("network", "of alice", tenant=alice)]
    nobodys = [
        Trace("disk", f"{UNKNOWN}.img", UNKNOWN),
        Trace("network", "of bob", tenant=bob),
        Trace("container", "without a mark"),
    ]
    driver.kept += theirs + nobodys
    await full_pass(house, loop)
    assert {found.name for found in open_findings(house)} == {trace.name for trace in nobodys}
    await full_pass(house, loop)
    assert driver.kept == theirs
    assert {over.outcome for over in ended_findings(house)} == {"removed"}


async def test_a_stopped_instance_keeps_its_disk(keeping: tuple[House, Keeping]) -> None:
    house, driver = keeping
    loop = house.loop()
    id = await running(house, loop)
    driver.kept.append(Trace("disk", f"{id}.img", id))
    house.ask(id, Event.STOP)
    await house.until_state(loop, id, State.STOPPED)
    driver.play_vanish(id)  # somebody removed its container behind our back
    for _ in range(4):
        await full_pass(house, loop)
    assert [trace.instance for trace in driver.kept] == [id]


async def test_traces_that_are_not_shown_are_not_gone(keeping: tuple[House, Keeping]) -> None:
    house, driver = keeping
    loop = house.loop()
    await running(house, loop)
    driver.kept.append(Trace("disk", f"{UNKNOWN}.img", UNKNOWN))
    await full_pass(house, loop)
    driver.traces_fail = "away"
    await full_pass(house, loop)
    assert [found.name for found in open_findings(house)] == [f"{UNKNOWN}.img"]
    driver.traces_fail = ""
    await full_pass(house, loop)
    assert driver.kept == []


async def test_what_was_only_on_its_way_out_leaves_no_record(house: House) -> None:
    loop = house.loop()
    id = await running(house, loop)
    await plant(house, id)
    await full_pass(house, loop)
    house.driver.play_vanish(UNKNOWN)
    await full_pass(house, loop)
    assert (open_findings(house), ended_findings(house)) == ([], [])


async def test_one_that_went_by_itself_after_its_grace_is_remembered(keeping: tuple[House, Keeping]) -> None:
    house, driver = keeping
    loop = house.loop()
    id = await running(house, loop)
    await plant(house, id)
    driver.refuses_orphans = "device or resource busy"
    for _ in range(3):
        await full_pass(house, loop)
    (found,) = open_findings(house)
    assert found.message == "device or resource busy"
    text = loop._metrics.text().decode()
    assert "tidemill_orphan_removals_failed_total" in text
    house.driver.play_vanish(UNKNOWN)
    await full_pass(house, loop)
    assert [over.outcome for over in ended_findings(house)] == ["gone"]


async def test_what_an_engine_keeps_is_one_finding_and_not_said_to_be_removed(
    keeping: tuple[House, Keeping],
) -> None:
    house, driver = keeping
    loop = house.loop()
    await running(house, loop)
    driver.kept = [Trace("network", "tidemill-test-gone", tenant="gone")]
    driver.refuses_orphans = "active endpoints"
    for _ in range(5):
        await full_pass(house, loop)
    (found,) = open_findings(house)
    assert (found.name, found.message) == ("tidemill-test-gone", "active endpoints")
    assert ended_findings(house) == []
    text = loop._metrics.text().decode()
    here = f'{{kind="network",region="{loop._region_id}"}}'
    assert f"tidemill_orphans_found_total{here} 1.0" in text
    assert f"tidemill_orphans_removed_total{here}" not in text
    assert f"tidemill_orphan_removals_failed_total{here} 4.0" in text
    driver.refuses_orphans = ""
    await full_pass(house, loop)
    assert [over.outcome for over in ended_findings(house)] == ["removed"]
    assert f"tidemill_orphans_removed_total{here} 1.0" in loop._metrics.text().decode()


async def test_an_engine_that_hangs_on_an_orphan_keeps_nobody_waiting(keeping: tuple[House, Keeping]) -> None:
    house, driver = keeping
    loop = house.loop()
    id = await running(house, loop)
    await plant(house, id)
    driver.hangs_on = {UNKNOWN}
    for _ in range(3):
        house.clock.pass_by(61)
        await loop.run_pass()
        await asyncio.gather(*loop._working.values())
    assert loop._orphans.busy
    next_one = house.launch()
    for _ in range(10):
        await loop.run_pass()
        await asyncio.gather(*loop._working.values())
        house.clock.pass_by(0.5)
    assert house.get(next_one).state is State.RUNNING
    await loop._orphans.close()
    assert not loop._orphans.busy


async def test_the_end_of_a_loop_lets_go_of_what_is_being_removed(keeping: tuple[House, Keeping]) -> None:
    house, driver = keeping
    loop = house.loop()
    id = await running(house, loop)
    await plant(house, id)
    driver.hangs_on = {UNKNOWN}
    for _ in range(3):
        house.clock.pass_by(61)
        await loop.run_pass()
    task = asyncio.create_task(loop.run())
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(60):
        await asyncio.gather(task, return_exceptions=True)
    assert not loop._orphans.busy


FINDING = Finding(1, "r", "disk", "a", "", START, START, 0.0, "", None, "")


@given(
    there=st.frozensets(st.sampled_from("abcdef")),
    before=st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 100)),
    passed=st.floats(0, 100),
    grace=st.floats(0, 100),
    listed=st.booleans(),
)
def test_everything_is_weighed_once(
    there: frozenset[str], before: dict[str, float], passed: float, grace: float, listed: bool
) -> None:
    things = {("disk", name): Trace("disk", name) for name in there}
    known = [replace(FINDING, name=name, watched=watched) for name, watched in before.items()]
    kinds = frozenset({"disk"} if listed else {"network"})
    weighed = weigh(Unwanted(things, lambda kind, _: kind in kinds, ""), known, lambda _: passed, grace)
    assert {thing.name for thing in weighed.new} == there - before.keys()
    assert {finding.name for finding, _ in weighed.still} == there & before.keys()
    assert {finding.name for finding in weighed.over} == (before.keys() - there if listed else set())
    assert all(watched == finding.watched + passed for finding, watched in weighed.still)
    assert {finding.name for finding in weighed.ripe} == {
        name for name in there & before.keys() if before[name] + passed >= grace
    }


def test_the_history_of_findings_is_swept(stocked: Stocked, clock: HandClock) -> None:
    def work(connection: object) -> list[Finding]:
        for number in range(3):
            at = START + number * findings.KEPT
            assert findings.begin(connection, "r", "disk", "one name", "", at)  # type: ignore[arg-type]
            (found,) = findings.open_in(connection, "r")  # type: ignore[arg-type]
            assert findings.end(connection, found, at, findings.REMOVED)  # type: ignore[arg-type]
            assert not findings.end(connection, found, at, findings.GONE)  # type: ignore[arg-type]
        return findings.ended(connection, since=START - findings.KEPT, limit=10)  # type: ignore[arg-type]

    kept = stocked.database.run(work)
    assert [over.outcome for over in kept] == ["removed", "removed"]


async def test_however_much_is_found_no_statement_is_too_large(house: House) -> None:
    """A database takes some tens of thousands of parameters at a time."""
    loop = house.loop()
    await running(house, loop)
    many = {f"notebook-{number}" for number in range(40_000)}
    unwanted = await loop._orphans.unwanted(many)
    assert len(unwanted.things) == len(many)


async def test_servers_with_a_folder_each_judge_their_own_files(keeping: tuple[House, Keeping]) -> None:
    """Two servers of one region, each with a data folder: what one cannot see is not gone for the other."""
    house, driver = keeping
    house.settings = Settings(orphan_grace=100)
    loop = house.loop()
    await running(house, loop)
    there = {folder: [Trace("disk", f"/{folder}/{UNKNOWN}.img", UNKNOWN)] for folder in ("one", "two")}
    watched: list[float] = []
    while any(there.values()):
        for folder, kept in there.items():
            driver.folder, driver.kept = f"/{folder}", kept
            await full_pass(house, loop)
            watched += [one.watched for one in open_findings(house)]
        assert len(watched) < 50
    assert [over.outcome for over in ended_findings(house)] == ["removed", "removed"]


async def test_a_name_longer_than_the_database_keeps_is_no_obstacle(keeping: tuple[House, Keeping]) -> None:
    house, driver = keeping
    loop = house.loop()
    await running(house, loop)
    driver.kept.append(Trace("container", "x" * 300))
    for _ in range(2):
        await full_pass(house, loop)
    assert driver.kept == []
    assert [over.outcome for over in ended_findings(house)] == ["removed"]
