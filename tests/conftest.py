"""What many tests stand on: a clock they move, a real database, a catalogue with one node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stock import HandClock, Stocked, stock
from tidemill.store.database import Database
from tidemill.store.migrate import migrate


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'tidemill.db'}")
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def stocked(database: Database, clock: HandClock) -> Stocked:
    return stock(database, clock)
