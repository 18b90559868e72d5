"""What a server of each role does, and which servers are refused and why."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.journeys.running import environment
from tests.journeys.waiting import until
from tests.servers.cluster import Cluster, Member, cluster

SECONDS = 60


@pytest.fixture
def servers(tmp_path: Path, postgres_url: str) -> Iterator[Cluster]:
    with cluster(tmp_path, postgres_url, lease=2.0) as made:
        yield made


def refused(member: Member, *words: str) -> str:
    """What a server says that does not start."""
    done = subprocess.run(
        member.command("serve", "--host", "127.0.0.1", "--port", str(member.port), *words),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=environment(),
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


def test_the_loop_alone_can_be_watched_and_has_no_api(servers: Cluster) -> None:
    loop = servers.add(role="loop", witness=False)
    assert loop.http.get("/healthz").status_code == 200
    assert loop.http.get("/readyz").status_code == 200
    assert "tidemill_servers" in loop.http.get("/metrics").text
    for path in ("/api/openapi.json", "/api/user/me", "/api/.well-known/jwks.json"):
        answer = loop.http.get(path)
        assert (answer.status_code, answer.json()["error"]) == (404, "pathNotFound")
    assert "no API" in loop.http.post("/api/user/login", json={}).json()["message"]


def test_an_api_alone_is_ready_without_its_engine_and_shows_what_loops_did(servers: Cluster) -> None:
    servers.add(role="loop", witness=False)
    api = servers.add(role="api", witness=False, driver="docker", docker_url="unix:///nowhere/docker.sock")
    tenant = servers.tenant(api)
    id = tenant.launch(type="tiny")
    tenant.wait(id, "Running")
    assert api.ready().status_code == 200
    answer = tenant.ask("GET", f"/api/instance/{id}/logs")
    assert (answer.status_code, answer.json()["error"]) == (503, "engineUnreachable")


def test_an_api_alone_may_share_the_data_folder_of_a_loop(servers: Cluster) -> None:
    loop = servers.add(role="loop", witness=False)
    process = subprocess.Popen(
        loop.command("serve", "--role", "api", "--host", "127.0.0.1", "--port", str(loop.port + 1)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{loop.port + 1}/api/openapi.json").status_code == 200
            except httpx.HTTPError:
                return False

        until("the API answers", answers, SECONDS)
        assert len(servers.server_names()) == 2
    finally:
        process.terminate()
        assert process.wait(timeout=SECONDS) == 0


def test_on_sqlite_a_server_does_everything(tmp_path: Path) -> None:
    with cluster(tmp_path, "") as servers:
        member = servers.add(start=False, witness=False)
        for role in ("api", "loop"):
            said = refused(member, "--role", role)
            assert f"A server that is {role} alone needs others beside it" in said
            assert "set database_url to a PostgreSQL" in said


def test_whose_token_keys_differ_is_refused(servers: Cluster) -> None:
    servers.add(role="api", witness=False)
    said = refused(servers.add(keys=False, start=False, witness=False, role="api"))
    assert "signs access tokens with other keys" in said
    assert "keys/" in said


def test_a_region_has_one_engine(servers: Cluster) -> None:
    """Each of these would be on an engine of its own: in its own data folder."""
    own = {"simulated_folder": "", "witness": False}
    first = servers.add(**own)
    second = servers.add(start=False, **own)
    assert "is worked on from another data folder" in refused(second)
    tenant = servers.tenant(first)
    tenant.wait(tenant.launch(type="tiny"), "Running")
    first.stop()
    said = refused(second)
    assert "The region 'local' is worked on from another data folder" in said
    first.start()
    first.terminate_all(tenant)
    first.stop()
    second.start()


def test_a_copy_of_a_data_folder_that_is_in_use_is_refused(servers: Cluster) -> None:
    first = servers.add(witness=False)
    copy = servers.add(start=False, witness=False)
    shutil.copy(first.folder / "server.lock", copy.folder / "server.lock")
    assert "works from a copy of this data folder" in refused(copy)
    assert len(servers.server_names()) == 1
    first.stop()
    copy.start()


def test_servers_that_start_at_the_same_instant_on_an_empty_database(servers: Cluster) -> None:
    members = [servers.add(start=False, witness=False) for _ in range(3)]
    for member in members:
        member.process = member.spawn()
    for member in members:
        until(f"{member.folder.name} answers", member._answers, SECONDS)
    assert len(servers.server_names()) == 3
    tenant = servers.tenant()
    tenant.wait(tenant.launch(type="tiny"), "Running")
