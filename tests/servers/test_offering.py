"""What the server refuses to offer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.stock import REGION, HandClock, Stocked, accept

from tidemill.model.errors import Misconfigured
from tidemill.server.offering import check_regions
from tidemill.settings import Settings


def test_a_region_with_instances_cannot_go_missing(stocked: Stocked, clock: HandClock) -> None:
    other = replace(REGION, id="another", name="another")
    check_regions(stocked.database, [other])
    stocked.database.run(lambda c: accept(c, Settings(), stocked.alice, stocked.order(), clock.now()))
    check_regions(stocked.database, [other, replace(REGION, name="renamed")])
    with pytest.raises(Misconfigured, match=f"'local' is no longer.*1 instances.*{REGION.id}"):
        check_regions(stocked.database, [other])
