"""`tidemill serve` on the simulated engine: what runs there outlives the server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.journeys.running import Server
from tests.journeys.waiting import until

from tidemill.drivers.simulated import file

AT_ONCE = {"simulated_pull_seconds": 0, "simulated_start_seconds": 0, "simulated_stop_seconds": 0}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Any]:
    made: list[Server] = []

    def make(**settings: Any) -> Server:
        settings = {"driver": "simulated"} | AT_ONCE | settings
        made.append(Server(tmp_path / f"data-{len(made)}", settings=settings))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.mark.parametrize("folder", ["", "shared"])
def test_a_killed_server_finds_everything_as_it_was(served: Any, tmp_path: Path, folder: str) -> None:
    server = served(simulated_folder=str(tmp_path / folder) if folder else "").start()
    alice = server.first_login()
    ids = [alice.launch() for _ in range(3)]
    for id in ids:
        alice.wait(id, "Running")
    alice.do("stop", ids[0])
    alice.wait(ids[0], "Stopped")
    server.stop(signal.SIGKILL)
    server.start()
    alice.do("stop", ids[1])
    alice.wait(ids[1], "Stopped")
    alice.do("start", ids[0])
    alice.wait(ids[0], "Running")
    assert [line["event"] for line in alice.events(ids[2])] == ["launch", "running"]
    assert alice.logs(ids[0]) == "simulated start 1\nsimulated start 2\n"
    kept = list((tmp_path / folder if folder else server.folder / "simulated").glob(f"*/{file.NAME}"))
    assert [path.parent.name.startswith(server.deployment) for path in kept] == [True]


def test_in_memory_nothing_is_kept(served: Any) -> None:
    server = served(simulated_folder="memory").start()
    alice = server.first_login()
    alice.wait(alice.launch(), "Running")
    assert not (server.folder / "simulated").exists()


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("simulated_folder", "a file", "cannot be used"),
        ("simulated_faults", "slow=0.1", "there is no dial 'slow'"),
    ],
)
def test_a_setting_that_cannot_be_used_is_said(
    served: Any, tmp_path: Path, setting: str, value: str, why: str
) -> None:
    (tmp_path / "a file").touch()
    server = served(**{setting: str(tmp_path / value) if setting == "simulated_folder" else value})
    assert server.spawn().wait(timeout=60) == 1
    assert f"setting {setting}: " in server.log
    assert why in server.log
    assert "Traceback" not in server.log


def test_a_launch_can_be_watched(served: Any) -> None:
    server = served(simulated_pull_seconds=1, simulated_start_seconds=1, simulated_stop_seconds=1).start()
    alice = server.first_login()
    id = alice.launch()
    alice.wait(id, "Running")
    alice.do("stop", id)
    alice.wait(id, "Stopped")
    shown = [line["to"] for line in alice.events(id)]
    assert shown == ["Initializing", "PullingImage", "Starting", "Running", "Stopping", "Stopped"]


def test_failures_can_be_tried_by_hand(served: Any) -> None:
    server = served(simulated_faults="refuses=1").start()
    alice = server.first_login()
    id = alice.launch()
    until("it failed", lambda: alice.status(id) == "InitializationFailed")
    last = alice.events(id)[-1]
    assert last["reason"] == "Refused"
    assert "simulated_faults" in last["message"]
