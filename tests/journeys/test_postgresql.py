"""With the real engine: a PostgreSQL that goes away, and comes back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.journeys.running import Server, Tenant, docker
from tests.journeys.visiting import Person
from tests.journeys.waiting import until
from tests.postgres import PostgresServer, postgres_server

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.databases("sqlite")]  # it brings its own


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that this test may kill; what it answered is on the disk."""
    with postgres_server(durable=True) as server:
        yield server


def containers_of(id: str) -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", f"label=tidemill.instance={id}").split()


def test_a_database_that_goes_away_and_comes_back(
    deployment: Callable[..., Server], guest: Path, person: Person, own_postgres: PostgresServer
) -> None:
    """Nobody inside notices; who asks is told; what was accepted is done, once."""
    url = own_postgres.new_database()
    server = deployment(guest=guest, settings={"database_url": url}).start()
    user = server.first_login()
    user.add_key(person.public_line)
    first = user.launch(name="first")
    user.wait(first, "Running")
    visit = person.at(user, first)
    body = user.request(name="asked meanwhile")
    accepted = [user.launch(name=f"n{number}") for number in range(3)]

    own_postgres.stop(signal.SIGQUIT)  # in the middle of three launches
    assert visit.say("echo nothing happened") == "nothing happened\n"
    said = asked(user, body)
    assert said is not None
    assert (said.status_code, said.json()["error"]) == (503, "databaseUnavailable")
    assert "nothing was changed" in said.json()["message"]
    ready = server.ready()
    assert ready.status_code == 503
    assert "database" in ready.json()["message"]
    assert server.http.get("/healthz").status_code == 200

    own_postgres.start()
    answer = until("a launch is taken", lambda: taken(asked(user, body)), 30)
    for id in (*accepted, answer):
        user.wait(id, "Running", 60)
        assert len(containers_of(id)) == 1
    assert server.ready().status_code == 200
    assert visit.say("echo still here") == "still here\n"

    # Both at once: the server in the middle of what it does, and its database too.
    user.do("restart", first)
    more = user.launch(name="more")
    server.stop(signal.SIGKILL)
    own_postgres.stop(signal.SIGQUIT)
    own_postgres.start()
    server.start()
    for id in (first, more):
        user.wait(id, "Running", 60)
        assert len(containers_of(id)) == 1
    listed = user.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 10}})
    assert listed["pager"]["totalEntries"] == 6
    server.terminate_all(user)
    until("nothing is left", lambda: not server.leftovers(), 15)
    assert "Traceback" not in server.log


def asked(user: Tenant, body: dict[str, object]) -> httpx.Response | None:
    try:
        return user.ask("POST", "/api/instance/create", body, headers={"Idempotency-Key": "meanwhile"})
    except httpx.HTTPError:
        return None


def taken(answer: httpx.Response | None) -> str | None:
    return answer.json()["instanceId"] if answer is not None and answer.status_code == 200 else None
