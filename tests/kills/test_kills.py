"""Killed for real: eight clients work while the server, the engine and the instances are killed under them.

At the end everybody has what they asked for last, once, with what they wrote; and nobody anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.journeys.engine_proxy import EngineProxy
from tests.journeys.running import Server
from tests.journeys.visiting import Person
from tests.kills.engine import OwnEngine
from tests.kills.torment import server_on, torment
from tests.kills.troubles import EngineKiller, Meddler, ServerKiller, SlowEngine, Trouble

LOST_PORT = "in use by another program"  # it is the engine's own: see torment.py

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""


@pytest.fixture
def server(
    engine: OwnEngine, proxy: EngineProxy, guest_folder: Path, tmp_path: Path, database: str
) -> Iterator[Server]:
    made = server_on(engine, proxy, tmp_path / "data", guest_folder, database)
    try:
        yield made
    finally:
        made.close()
        engine.empty()
        engine.import_image()


@pytest.mark.parametrize(
    ("troubles", "operations", "database"),
    [
        pytest.param([ServerKiller], 200, "sqlite", id="server"),
        pytest.param(
            [ServerKiller, EngineKiller, Meddler, SlowEngine], 150, "postgresql", id="everything-postgresql"
        ),
    ],
    indirect=["database"],
)
def test_killed_for_real(
    troubles: list[type[Trouble]],
    operations: int,
    server: Server,
    engine: OwnEngine,
    proxy: EngineProxy,
    person: Person,
) -> None:
    report = torment(
        server=server, engine=engine, proxy=proxy, person=person, troubles=troubles, operations=operations
    )
    print(report)
    assert [why for why in report.failed if LOST_PORT not in why or EngineKiller not in troubles] == []
