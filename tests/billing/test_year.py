"""A simulated year, small: both books agree to the micro-unit. ``scripts/year`` runs a large one."""

from __future__ import annotations

import pytest

from tests.billing.year import Year
from tidemill.store.database import Database


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_a_year(sqlite_url: str, seed: int) -> None:
    database = Database(sqlite_url)
    try:
        year = Year(database, people=20, many=32, seed=seed)
        findings = year.run()
    finally:
        database.close()
    assert [f"{one.about}: {one.meaning}" for one in findings.differences] == []
    assert findings.counts["charge postings"] > 100
    assert findings.counts["term postings"] > 5
    assert year.counts["crashes"] > 3
