from __future__ import annotations

import pytest

from tests.billing.town import Town
from tests.stock import HandClock, Stocked


@pytest.fixture
def town(stocked: Stocked, clock: HandClock) -> Town:
    return Town(stocked, clock)
