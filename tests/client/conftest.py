"""A real server on a simulated engine, for all tests of the clients, and its users."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.journeys.running import Server, Tenant

IMAGE = {"name": "Debian 12", "reference": "tidemill/debian:12"}
TYPES = [
    {"name": "small", "cpu": 0.5, "memoryGB": 0.25, "perHour": 1.5, "tidePerHour": 0.9, "perWeek": 100},
    {"name": "wide", "cpu": 1, "memoryGB": 300, "perHour": 2},
    {"name": "tidal", "cpu": 1, "memoryGB": 1, "tidePerHour": 2},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(
        tmp_path_factory.mktemp("client") / "server",
        settings={
            "driver": "simulated",
            "simulated_pull_seconds": 0.1,
            "simulated_start_seconds": 0.1,
            "simulated_stop_seconds": 0.1,
            "node_ports": "1025-65535",
        },
        tables={"type": TYPES, "image": [IMAGE]},
    )
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture(scope="module")
def user(server: Server) -> Tenant:
    return server.first_login()


@pytest.fixture(scope="module")
def operator(server: Server) -> Tenant:
    return server.first_login("admin")
