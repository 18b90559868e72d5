"""Every test here stands on the real engine, with a deployment of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.drivers.docker.world import World, guest, image

from tidemill.drivers.docker.driver import DockerDriver
from tidemill.guest.installed import InstalledGuest

__all__ = ["guest", "image"]


@pytest.fixture
async def world(guest: InstalledGuest, image: str, tmp_path: Path) -> AsyncIterator[World]:
    made = World(guest, image, tmp_path)
    try:
        yield made
    finally:
        await made.clean_up()


@pytest.fixture
def driver(world: World) -> DockerDriver:
    return world.driver()
