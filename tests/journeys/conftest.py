"""Servers for journeys: on either database, a guest built once for all, and their logs beside what fails.

Every journey is made on SQLite and on PostgreSQL; ``pytest.mark.databases`` names those of one that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.journeys.running import Server
from tests.journeys.visiting import Person
from tests.postgres import PostgresServer

LOG_CHARACTERS = 12_000
alive = pytest.StashKey[list[Server]]()


@pytest.fixture(scope="session")
def guest(guest_folder: Path, base_image: str) -> Path:
    """A folder with a built guest, and the base image in the engine."""
    return guest_folder


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person.with_new_key(tmp_path_factory.mktemp("person"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("databases")
        kinds = marker.args if marker is not None else ("sqlite", "postgresql")
        metafunc.parametrize("database", kinds, indirect=True, scope="module")


@pytest.fixture(scope="module")
def database(request: pytest.FixtureRequest) -> Iterator[Callable[[], dict[str, Any]]]:
    """Settings of a database of its own for each call."""
    if request.param == "sqlite":
        yield dict
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    made: list[str] = []

    def make() -> dict[str, Any]:
        made.append(server.new_database())
        return {"database_url": made[-1]}

    yield make
    for url in made:
        server.drop(url)


def _made(
    request: pytest.FixtureRequest, top: Path, database: Callable[[], dict[str, Any]]
) -> Generator[Callable[..., Server]]:
    known = request.config.stash.setdefault(alive, [])
    with ExitStack() as stack:

        def make(name: str = "data", *, settings: Mapping[str, Any] = {}, **options: Any) -> Server:
            server = Server(top / name, settings={**database(), **settings}, **options)
            known.append(server)
            stack.callback(known.remove, server)
            stack.callback(server.close)
            return server

        yield make


@pytest.fixture(scope="module")
def shared_deployment(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    database: Callable[[], dict[str, Any]],
) -> Iterator[Callable[..., Server]]:
    """Makes a deployment that lasts as long as the module."""
    yield from _made(request, tmp_path_factory.mktemp("deployment"), database)


@pytest.fixture
def deployment(
    request: pytest.FixtureRequest, tmp_path: Path, database: Callable[[], dict[str, Any]]
) -> Iterator[Callable[..., Server]]:
    """Makes a deployment that lasts as long as the test."""
    yield from _made(request, tmp_path, database)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any]:
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for server in item.config.stash.get(alive, []):
            report.sections.append((f"log of {server.folder}", server.log[-LOG_CHARACTERS:]))
