"""A house to run loops in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.reconcile.house import NODE, House
from tests.stock import HandClock, Stocked

from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.settings import Settings


@pytest.fixture
async def house(stocked: Stocked, clock: HandClock) -> AsyncIterator[House]:
    driver = SimulatedDriver(nodes=[NODE], sleep=clock.sleep)
    yield House(stocked, clock, driver, Settings())
    await driver.close()
