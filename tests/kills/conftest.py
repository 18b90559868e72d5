"""An engine for the tests here alone, and one person who visits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.journeys.engine_proxy import EngineProxy
from tests.journeys.visiting import Person
from tests.kills.engine import OwnEngine


@pytest.fixture(scope="session")
def engine() -> Iterator[OwnEngine]:
    made = OwnEngine()
    try:
        made.start().import_image()
        yield made
    finally:
        made.close()


@pytest.fixture
def proxy(engine: OwnEngine) -> Iterator[EngineProxy]:
    made = EngineProxy(engine.folder / "proxy.sock", engine.socket)
    made.up()
    yield made
    made.close()


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person.with_new_key(tmp_path / "person")
