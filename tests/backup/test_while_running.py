"""Backups of a server under load: each is the database of one instant, and the keys of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.backup.test_round_trip import bring_back
from tests.invariants import in_database
from tests.journeys.running import SMALL, Server
from tests.journeys.waiting import until
from tests.stock import HandClock

from tidemill.actions.tokens import add_key
from tidemill.backup import take
from tidemill.backup.restore import verify
from tidemill.settings import Settings
from tidemill.store.database import Database

CLIENTS = 3
BACKUPS = 2


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[Server]:
    made = Server(
        tmp_path / "data",
        settings={
            "driver": "simulated",
            "simulated_pull_seconds": 0,
            "simulated_start_seconds": 0.05,
            "database_url": database_url,
            "cpu_overcommit": 1000,
        },
        tables={"type": [SMALL | {"memoryGB": 0.02}]},
    )
    yield made
    made.close()


@contextmanager
def load(server: Server) -> Iterator[Callable[[], int]]:
    """Clients that launch, stop, start and terminate for as long as this lasts; how much they did."""
    going, done = threading.Event(), [0] * CLIENTS
    user = server.first_login()
    request = user.request()

    def work(number: int) -> None:
        http = httpx.Client(base_url=server.url, timeout=60, trust_env=False)
        http.headers["Authorization"] = f"Bearer {user.token}"
        while not going.is_set():
            made = http.post("/api/instance/create", json=request)
            body = {"instanceId": made.json().get("instanceId", "")}
            for verb in ("stop", "start", "terminate")[number % 3 :]:
                http.post(f"/api/instance/{verb}", json=body)
            done[number] += 1
        http.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: sum(done)
    finally:
        going.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_backup_is_of_one_instant(server: Server, tmp_path: Path, clock: HandClock) -> None:
    """No reservation without its instance, no event without its state: every invariant of the database."""
    server.start()
    settings = Settings(deployment=server.deployment)
    with load(server) as done:
        for number in range(BACKUPS):
            before = done()
            server.tidemill("backup", str(tmp_path / f"backup-{number}"))
            until("the clients go on", lambda before=before: done() > before, 60)
    counts: list[int] = []
    for number in range(BACKUPS):
        manifest = verify(tmp_path / f"backup-{number}")
        url = f"sqlite:///{tmp_path / f'restored-{number}.db'}"
        bring_back(tmp_path / f"backup-{number}", tmp_path / f"to-{number}", url, clock)
        database = Database(url)
        try:
            found = in_database(database, now=clock.now(), settings=settings)
        finally:
            database.close()
        assert found == []
        counts.append(manifest.rows()["instances"])
    assert counts == sorted(counts)
    assert counts[0] < counts[-1], "they were taken while it went on"


def test_keys_that_are_rotated_meanwhile_are_those_of_one_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the reading one is added and the oldest is retired, twice."""
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    for _ in range(2):
        add_key(folder)
    moments: list[set[str]] = []
    look = take._names

    def names(where: Path) -> set[str]:
        found = look(where)
        if len(moments) < 2:
            moments.append(found)
            add_key(where)
            (where / min(found)).unlink()
        return found

    monkeypatch.setattr(take, "_names", names)
    found = take._keys(folder)
    assert found.keys() == look(folder)
    assert found.keys() not in moments
    assert all(content == (folder / name).read_bytes() for name, content in found.items())
