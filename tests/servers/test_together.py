"""Several servers on one PostgreSQL: rung across processes, one killed, one frozen."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.journeys.running import Tenant
from tests.journeys.waiting import until
from tests.servers.cluster import Cluster, cluster, launch_many, overlaps, read_diary

SECONDS = 60.0  # generous: other tests may have the processor
RUNG = 25.0  # seconds: who is not rung comes by after thirty


@pytest.fixture
def servers(tmp_path: Path, postgres_url: str) -> Iterator[Cluster]:
    with cluster(tmp_path, postgres_url) as made:
        yield made


def all_are(tenant: Tenant, status: str, count: int) -> bool:
    body = {"pager": {"currentPage": 1, "pageSize": 1}, "filter": {"status": [status]}}
    return tenant.post("/api/instance/list", body)["pager"]["totalEntries"] == count


def test_the_bell_reaches_the_loop_of_another_process_at_once(servers: Cluster) -> None:
    """With half a minute between beats, who is not rung is late."""
    servers.settings |= {"beat": 30.0, "full_pass": 3600.0}
    servers.add(role="loop", witness=False)
    api = servers.add(role="api", witness=False)
    tenant = servers.tenant(api)
    for _ in range(3):
        began = time.monotonic()
        id = tenant.launch(type="tiny")
        tenant.wait(id, "Running")
        assert time.monotonic() - began < RUNG
        began = time.monotonic()
        tenant.do("terminate", id)
        tenant.wait(id, "Released")
        assert time.monotonic() - began < RUNG


def test_who_listens_hears_again_after_the_line_was_cut(servers: Cluster, postgres_url: str) -> None:
    from sqlalchemy import create_engine, text

    servers.settings |= {"beat": 30.0, "full_pass": 3600.0}
    servers.add(role="loop", witness=False)
    tenant = servers.tenant(servers.add(role="api", witness=False))
    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as connection:
            cut = connection.execute(
                text(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            ).scalar_one()
    finally:
        engine.dispose()
    assert cut >= 2
    id = until("a launch is accepted", lambda: launch_if_possible(tenant), 20)
    began = time.monotonic()
    tenant.wait(id, "Running")
    assert time.monotonic() - began < RUNG


def launch_if_possible(tenant: Tenant) -> str:
    answer = tenant.ask("POST", "/api/instance/create", tenant.request(type="tiny"))
    return answer.json().get("instanceId", "")


@pytest.mark.slow
def test_of_three_servers_one_is_killed_and_the_others_carry_on(servers: Cluster) -> None:
    for _ in range(3):
        servers.add()
    tenants = [servers.tenant(member) for member in servers.members]
    drawn, deaths = random.Random(7), dict[int, float]()
    ids: list[str] = []
    launching = threading.Thread(target=lambda: ids.extend(launch_many(servers, tenants, 60, 0.05, 1)))
    launching.start()
    victim = drawn.choice(servers.members)
    time.sleep(drawn.uniform(1.0, 2.5))
    assert victim.process is not None
    pid = victim.process.pid
    victim.stop(signal.SIGKILL)
    deaths[pid] = time.monotonic()
    launching.join(timeout=120)
    assert len(ids) == 60
    accepted = time.monotonic()
    tenant = next(tenant for tenant in tenants if tenant.server is not victim)
    until("all of them run", lambda: all_are(tenant, "Running", 60), SECONDS)
    assert time.monotonic() - max(accepted, deaths[pid]) < SECONDS
    calls = read_diary(servers.diary)
    assert len({call.process for call in calls}) == 3
    assert overlaps(calls, deaths) == []
    until("the dead one is buried", lambda: len(servers.server_names()) == 2, SECONDS)
    victim.start()
    assert len(servers.server_names()) == 3


@pytest.mark.slow
def test_a_server_that_stood_still_does_no_harm_when_it_goes_on(servers: Cluster) -> None:
    servers.settings |= {"lease": 2.0}
    for _ in range(2):
        servers.add()
    tenants = [servers.tenant(member) for member in servers.members]
    frozen, other = servers.members
    assert frozen.process is not None
    ids = launch_many(servers, tenants, 6, 0.02, 2)
    frozen.process.send_signal(signal.SIGSTOP)
    ids += launch_many(servers, tenants[1:], 10, 0.05, 3)
    until("all of them run without it", lambda: all_are(tenants[1], "Running", 16), SECONDS)
    assert len(servers.server_names()) == 1
    frozen.process.send_signal(signal.SIGCONT)
    until("it is there again", lambda: len(servers.server_names()) == 2, SECONDS)
    for id in ids:
        starts = [line["start"] for line in tenants[0].events(id)]
        assert set(starts) == {1}, tenants[0].events(id)
    assert "begins anew" in frozen.log
    for id in ids:
        tenants[0].do("terminate", id)
    until("all are gone", lambda: all_are(tenants[0], "Running", 0), SECONDS)
    assert other.process is not None
