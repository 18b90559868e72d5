"""Servers for journeys: a guest built once for all of them, and their logs beside what fails."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.journeys.running import Server
from tests.journeys.visiting import Person

from tidemill.guest.base_image import ensure
from tidemill.guest.build import build

LOG_CHARACTERS = 12_000
alive = pytest.StashKey[list[Server]]()


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a built guest, and the base image in the engine."""
    ensure()
    folder = tmp_path_factory.mktemp("guest")
    build(folder)
    return folder


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person.with_new_key(tmp_path_factory.mktemp("person"))


def _made(request: pytest.FixtureRequest, top: Path) -> Generator[Callable[..., Server]]:
    known = request.config.stash.setdefault(alive, [])
    with ExitStack() as stack:

        def make(name: str = "data", **options: Any) -> Server:
            server = Server(top / name, **options)
            known.append(server)
            stack.callback(known.remove, server)
            stack.callback(server.close)
            return server

        yield make


@pytest.fixture(scope="module")
def shared_deployment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """Makes a deployment that lasts as long as the module."""
    yield from _made(request, tmp_path_factory.mktemp("deployment"))


@pytest.fixture
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes a deployment that lasts as long as the test."""
    yield from _made(request, tmp_path)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any]:
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for server in item.config.stash.get(alive, []):
            report.sections.append((f"log of {server.folder}", server.log[-LOG_CHARACTERS:]))
