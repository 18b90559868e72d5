from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.billing.audited import differences
from tests.billing.town import Town
from tests.stock import HandClock, Stocked


@pytest.fixture
def town(stocked: Stocked, clock: HandClock) -> Iterator[Town]:
    """At its end both books must agree, whatever the test did."""
    town = Town(stocked, clock)
    yield town
    assert differences(stocked.database) == []
