"""The same Idempotency-Key from many clients at once, over two servers, one of which is killed."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.journeys.running import Server, Tenant
from tests.journeys.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.databases("sqlite")]  # it brings its own

ROUNDS, CLIENTS = 4, 16


@pytest.fixture
def settings(postgres_url: str, tmp_path: Path) -> dict[str, Any]:
    """One deployment of several servers, on an engine that all of them share."""
    return {
        "database_url": postgres_url,
        "driver": "simulated",
        "simulated_folder": str(tmp_path / "engine"),
        "lease": 2,
    }


def test_one_key_is_one_instance_whoever_is_asked_and_whoever_dies(
    deployment: Callable[..., Server], settings: dict[str, Any]
) -> None:
    first = deployment("first", settings=settings).start()
    second = deployment("second", settings=settings, deployment=first.deployment, ports=first.ports)
    shutil.rmtree(keys := second.folder / "keys")
    keys.symlink_to(first.folder / "keys")
    second.start()
    user = first.first_login()
    users = [user, Tenant(second, user.username, user.password).log_in()]
    body = user.request()

    for number in range(ROUNDS):
        started = threading.Barrier(CLIENTS + 1)

        def client(who: int, number: int = number, started: threading.Barrier = started) -> str:
            started.wait(30)
            return until("an answer", lambda: launched(users[who % 2], body, f"key {number}"), 60, pause=0.01)

        with ThreadPoolExecutor(CLIENTS) as pool:
            asked = [pool.submit(client, who) for who in range(CLIENTS)]
            started.wait(30)
            if number % 2:  # in the middle of it
                second.stop(signal.SIGKILL)
                second.start()
            assert len({each.result(90) for each in asked}) == 1
        # The same after everybody was away for a while.
        if number == ROUNDS - 1:
            first.stop()
            first.start()
        assert launched(user, body, f"key {number}") == asked[0].result()

    listed = user.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 200}})
    assert listed["pager"]["totalEntries"] == ROUNDS
    other = user.ask(
        "POST", "/api/instance/create", body | {"name": "other"}, headers={"Idempotency-Key": "key 0"}
    )
    assert (other.status_code, other.json()["error"]) == (409, "idempotencyKeyReused")
    for row in listed["instances"]:
        user.wait(row["instanceMetadata"]["instanceId"], "Running")


def launched(user: Tenant, body: dict[str, Any], key: str) -> str | None:
    """The id that a launch gave; None when it has to be asked for again."""
    try:
        answer = user.ask("POST", "/api/instance/create", body, headers={"Idempotency-Key": key})
    except httpx.HTTPError:
        return None
    assert answer.status_code in (200, 503), answer.text
    return answer.json()["instanceId"] if answer.status_code == 200 else None
