"""One application for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.api.served import Served, served
from tests.cheap_passwords import CHEAP, cost
from tests.stock import HandClock, Stocked

from tidemill.actions.tokens import add_key


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One signing key for all: making one takes longer than most tests."""
    folder = tmp_path_factory.mktemp("keys")
    add_key(folder)
    return folder


@pytest.fixture(autouse=True)
def cheap_passwords() -> Iterator[None]:
    """What is dear on purpose is not what is tried here: most of these tests log in, some many times."""
    with cost(CHEAP):
        yield


@pytest.fixture
async def api(stocked: Stocked, clock: HandClock, keys: Path) -> AsyncIterator[Served]:
    async with served(stocked, clock, keys) as made:
        yield made
