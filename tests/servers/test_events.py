"""The stream of what happens, over several servers: what one records the others tell."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.journeys.running import Tenant
from tests.servers.cluster import Cluster, Member, cluster

from tidemill.clock import SystemClock

SECONDS = 30
BOUND = 30.0  # a server's end; its own is 10, and other tests may have the processor


@pytest.fixture
def servers(tmp_path: Path, postgres_url: str) -> Iterator[Cluster]:
    with cluster(tmp_path, postgres_url, lease=2.0, simulated_pull_seconds=0.2) as made:
        yield made


@dataclass
class Stream:
    lines: Iterator[str]
    last: str = ""

    def frame(self) -> tuple[str, Any]:
        """Kind and data of the next frame; a comment is of no kind. Raises StopIteration at the end."""
        kind, data = "", None
        while line := next(self.lines):
            name, _, value = line.partition(": ")
            if name == "id":
                self.last = value
            elif name == "event":
                kind = value
            elif name == "data":
                data = json.loads(value)
            elif line.startswith(":"):
                data = line
        return kind, data

    def until(self, status: str) -> list[tuple[str, str]]:
        """What happened (event, to) until something is ``status``."""
        told: list[tuple[str, str]] = []
        while not told or told[-1][1] != status:
            kind, data = self.frame()
            if kind:
                told.append((data["event"], data["to"]))
        return told


@contextmanager
def stream(member: Member, tenant: Tenant, last: str = "") -> Iterator[Stream]:
    headers = {"Authorization": f"Bearer {tenant.token}"} | ({"Last-Event-ID": last} if last else {})
    with (
        httpx.Client(base_url=member.url, timeout=SECONDS, trust_env=False) as client,
        client.stream("GET", "/api/events", headers=headers) as response,
    ):
        assert response.status_code == 200
        made = Stream(response.iter_lines())
        made.frame()
        assert made.last
        yield made


def test_an_api_tells_what_loops_of_other_processes_do_and_another_goes_on(servers: Cluster) -> None:
    servers.add(role="loop", witness=False, beat=30.0, full_pass=60.0)
    first, second = (servers.add(role="api", witness=False) for _ in range(2))
    tenant = servers.tenant(second)
    with stream(first, tenant) as told:
        id = tenant.launch(type="tiny")
        happened = told.until("Running")
        now = SystemClock().now()
        began = next(row["at"] for row in tenant.events(id) if row["to"] == "Running")
        assert now - datetime.fromisoformat(began) < timedelta(seconds=1.5)  # by the ring, before the beat
        assert happened[0] == ("launch", "Initializing")
    tenant.do("terminate", id)
    tenant.wait(id, "Released")
    with stream(second, tenant, told.last) as rest:
        ended = rest.until("Released")
        assert ended[0][0] == "terminate"
    with stream(first, tenant, told.last) as same:
        assert same.until("Released") == ended
        assert same.last == rest.last


def test_streams_end_with_their_server_and_go_on_at_another(servers: Cluster) -> None:
    servers.add(role="loop", witness=False)
    first, second = (servers.add(role="api", witness=False) for _ in range(2))
    tenant = servers.tenant(second)
    idle = f"GET /api/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.token}\r\n\r\n".encode()
    with (
        closing(socket.create_connection(("127.0.0.1", first.port), timeout=SECONDS)) as deaf,
        stream(first, tenant) as told,
    ):
        deaf.sendall(idle)
        began = time.monotonic()
        assert first.stop(signal.SIGTERM, seconds=BOUND) == 0
        assert time.monotonic() - began < BOUND
        assert told.frame() == ("", ": the server is stopping; connect again for the rest")
        with pytest.raises(StopIteration):
            told.frame()
    id = tenant.launch(type="tiny")
    with stream(second, tenant, told.last) as again:
        assert again.until("Running")[0] == ("launch", "Initializing")
        tenant.do("terminate", id)
        again.until("Released")
