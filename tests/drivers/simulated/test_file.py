"""The engine in a file: it outlives its servers, several processes share it, and it is the same engine."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.drivers.simulated.conftest import NODES, workload
from tests.stock import HandClock

from tidemill.drivers.contract import Device, DriverError, NoRoom, Unreachable
from tidemill.drivers.simulated import file
from tidemill.drivers.simulated.dials import Dials
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.drivers.simulated.file import EngineInFile
from tidemill.model.observation import Phase, Seen

GPU = Device("gpu-0", "H100", ("/dev/gpu0",))


def over(folder: Path, clock: HandClock) -> SimulatedDriver:
    return SimulatedDriver(sleep=clock.sleep, engine=EngineInFile(folder, NODES, now=clock.monotonic))


async def test_what_runs_is_there_for_the_next_server(tmp_path: Path, clock: HandClock) -> None:
    first = over(tmp_path / "engine", clock)
    whole = workload(
        devices=(GPU,), authorized_keys=("ssh-ed25519 AAAA",), data_disk_gb=5, notices=("a b c",)
    )
    await first.ensure_running(whole)
    await first.ensure_running(replace(whole, start=2))
    await first.ensure_running(workload("notebook-2", start=7))
    first.play_vanish("notebook-2")
    first.play_node_lost("right")
    with pytest.raises(NoRoom):
        await first.ensure_running(workload("notebook-3", devices=(GPU,)))
    second = over(tmp_path / "engine", clock)
    assert await second.observe() == {"notebook-1": Seen(2, Phase.REACHABLE, devices=("gpu-0",))}
    assert second.made["notebook-1"] == replace(
        first.made["notebook-1"], workload=replace(whole, start=2, host_key=b"")
    )
    assert [node.name for node in await second.nodes()] == ["left"]
    assert second.violations == first.violations
    with pytest.raises(NoRoom):  # what it has is known
        await second.ensure_running(workload("notebook-3", devices=(GPU,)))
    assert second.play_return("notebook-2")
    assert await first.observe() == await second.observe()
    assert len(first.violations) == 2


async def test_time_goes_on_while_no_server_is_there(tmp_path: Path, clock: HandClock) -> None:
    first = over(tmp_path, clock)
    first.dials = Dials(start_seconds=5, pull_seconds=5)
    await first.ensure_running(workload(init_script="secret words"))
    await first.close()
    clock.pass_by(6)
    second = over(tmp_path, clock)
    assert (await second.observe())["notebook-1"] == Seen(1, Phase.STARTED)
    clock.pass_by(4)
    assert (await second.observe())["notebook-1"] == Seen(1, Phase.REACHABLE, init_exit=0)


async def test_no_secrets_in_the_file(tmp_path: Path, clock: HandClock) -> None:
    driver = over(tmp_path / "engine", clock)
    await driver.ensure_running(
        workload(init_script="token=hunter2", env={"KEY": "hunter3"}, host_key=b"hunter4" * 4)
    )
    await driver.close()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "engine").iterdir())
    assert b"notebook-1" in kept
    assert b"hunter" not in kept
    assert (b"hunter4" * 4).hex().encode() not in kept
    assert (tmp_path / "engine").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "engine" / file.NAME).stat().st_mode & 0o777 == 0o600


async def test_a_machine_that_is_configured_no_longer_does_not_answer(
    tmp_path: Path, clock: HandClock
) -> None:
    whole = over(tmp_path, clock)
    await whole.ensure_running(workload(node="right"))
    whole.play_node_lost("right")
    fewer = SimulatedDriver(sleep=clock.sleep, engine=EngineInFile(tmp_path, NODES[:1], now=clock.monotonic))
    whole.play_node_back("right")
    assert await fewer.observe() == {}
    assert [node.name for node in await fewer.nodes()] == ["left"]
    with pytest.raises(Unreachable, match="right"):
        await fewer.ensure_absent("notebook-1")
    assert set(await over(tmp_path, clock).observe()) == {"notebook-1"}


async def test_what_another_wrote_is_not_written_again(tmp_path: Path, clock: HandClock) -> None:
    one, other = over(tmp_path, clock), over(tmp_path, clock)
    await one.ensure_running(workload())
    written = versions(tmp_path)
    for driver in (other, one, other):
        await driver.ensure_stopped("notebook-2")  # nothing there
    await one.ensure_running(workload())  # nothing new
    assert versions(tmp_path) == written


def versions(folder: Path) -> list[int]:
    with sqlite3.connect(folder / file.NAME) as connection:
        return [row[0] for row in connection.execute("SELECT version FROM things")]


async def test_a_file_that_cannot_be_used_is_no_answer(tmp_path: Path, clock: HandClock) -> None:
    driver = over(tmp_path, clock)
    with sqlite3.connect(tmp_path / file.NAME) as other:
        other.execute("DROP TABLE things")
    with pytest.raises(Unreachable, match=file.NAME):
        await driver.ensure_running(workload())
    with pytest.raises(Unreachable, match=file.NAME):
        over(tmp_path / file.NAME, clock)


async def test_what_could_not_be_written_did_not_happen(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = over(tmp_path, clock)
    await driver.ensure_running(workload())
    monkeypatch.setattr(file, "WRITE", "INSERT INTO nothing VALUES (?, ?, ?, ?)")
    with pytest.raises(Unreachable):
        await driver.ensure_running(workload("notebook-2"))
    monkeypatch.undo()
    assert set(await driver.observe()) == {"notebook-1"}
    await driver.ensure_running(workload("notebook-2"))
    assert set(await over(tmp_path, clock).observe()) == {"notebook-1", "notebook-2"}


async def test_who_is_far_behind_reads_everything_anew(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "KEPT_BEHIND", 5)
    slow = over(tmp_path, clock)
    await slow.ensure_running(workload())
    busy = over(tmp_path, clock)
    await busy.ensure_absent("notebook-1")
    for start in range(1, 9):
        await busy.ensure_running(workload("notebook-2", start=start))
    again = over(tmp_path, clock)  # forgets what was removed long ago
    assert await slow.observe() == await again.observe() == {"notebook-2": Seen(8, Phase.REACHABLE)}


OFTEN = ["run", "run", "run", "wait", "wait", "stop", "exit", "vanish", "return", "lose", "back"]
CALLS = st.tuples(
    st.integers(0, 1),  # which of two servers
    st.sampled_from([*OFTEN, "remove", "reboot"]),
    st.integers(1, 3),  # which instance
    st.sampled_from(
        [{}, {"start_seconds": 1.0}, {"pull_seconds": 2.0}, {"half": True}, {"stop_seconds": 1.5}]
    ),
    st.integers(0, 2),  # how many starts further
)


@given(story=st.lists(CALLS, max_size=25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_two_servers_over_a_file_are_one_engine(
    story: list[tuple[int, str, int, dict[str, object], int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is done through either, it is as if one server had done it all on an engine in memory."""
    clock, folder = HandClock(), tmp_path_factory.mktemp("engine")
    pair = [over(folder, clock), over(folder, clock)]
    single = SimulatedDriver(nodes=NODES, sleep=clock.sleep, now=clock.monotonic)
    starts = {1: 0, 2: 0, 3: 0}
    for which, what, number, dials, further in story:
        id = f"notebook-{number}"
        starts[number] += further
        outcomes: list[str] = []
        for driver in (pair[which], single):
            driver.dials = Dials(**dials)  # type: ignore[arg-type]
            outcomes.append(await played(driver, what, id, starts[number] + 1))
        assert outcomes[0] == outcomes[1]
        if what == "wait":
            clock.pass_by(0.7)
        listings = [await driver.observe() for driver in (*pair, single)]
        assert listings[0] == listings[1] == listings[2]
    for driver in pair:
        await driver.close()


async def played(driver: SimulatedDriver, what: str, id: str, start: int) -> str:
    try:
        match what:
            case "run":
                node = "left" if id.endswith(("1", "2")) else "right"
                await driver.ensure_running(workload(id, start=start, cpu=2.5, node=node))
            case "stop":
                await driver.ensure_stopped(id)
            case "remove":
                await driver.ensure_absent(id)
            case "exit":
                driver.play_exit(id)
            case "vanish":
                driver.play_vanish(id)
            case "return":
                driver.play_return(id)
            case "lose":
                driver.play_node_lost("left")
            case "back":
                driver.play_node_back("left")
            case "reboot":
                driver.play_reboot()
            case _:
                pass
    except (DriverError, KeyError) as error:
        return repr(error)
    return ""


PROCESS = """
import asyncio, sys, time
from pathlib import Path
from tests.drivers.simulated.conftest import NODES, workload
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.drivers.simulated.file import EngineInFile

async def main():
    engine = EngineInFile(Path(sys.argv[1]), (), now=time.monotonic)
    driver = SimulatedDriver(sleep=asyncio.sleep, engine=engine)
    first = int(sys.argv[2])
    for number in range(first, first + 10_000):
        await driver.ensure_running(workload(f"notebook-{number}"))
        print(number, flush=True)

asyncio.run(main())
"""


async def test_servers_that_are_killed_leave_behind_all_that_they_said_they_did(tmp_path: Path) -> None:
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), str(100_000 * number)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        for number in (1, 2, 3)
    ]
    said: set[str] = set()
    for server in servers:
        assert server.stdout is not None
        for _ in range(20):
            said.add(f"notebook-{server.stdout.readline().strip()}")
    for server in servers:
        server.send_signal(signal.SIGKILL)
        assert server.stdout is not None
        said |= {f"notebook-{line.strip()}" for line in server.stdout if line.endswith("\n")}
        server.wait()
    after = SimulatedDriver(sleep=asyncio.sleep, engine=EngineInFile(tmp_path, (), now=time.monotonic))
    there = await after.observe()
    assert len(said) >= 60
    assert said <= there.keys()
    assert len(there) <= len(said) + len(servers), "each was killed in the middle of one at most"


async def test_who_listens_hears_of_what_others_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineInFile, "poll", 0.01)
    loop = asyncio.get_running_loop()
    one, other = (
        SimulatedDriver(sleep=asyncio.sleep, engine=EngineInFile(tmp_path, NODES, now=loop.time))
        for _ in range(2)
    )
    hints = one.changes()
    first = asyncio.ensure_future(anext(hints))
    await asyncio.sleep(0)
    await other.ensure_running(workload())
    async with asyncio.timeout(30):
        await first
    assert set(await one.observe()) == {"notebook-1"}
    with sqlite3.connect(tmp_path / file.NAME) as stranger:
        stranger.execute("DROP TABLE things")
    async with asyncio.timeout(30):
        with pytest.raises(Unreachable):
            async for _ in hints:
                pass
