"""What a check lets pass because the engine said so, and what it does not."""

from __future__ import annotations

import pytest

from tests.simulation.planted import bills_until_it_was_noticed
from tests.simulation.story import Act, Setup, Story
from tests.simulation.world import World, simulate

TIMES = [12.0 + second for second in range(14)]  # longer than from one full pass to the next


def billed_too_long(at: float) -> bool:
    """An instance vanishes at ``at``, while every listing is up to five seconds old."""
    acts = (
        Act(1.0, "launch", (("name", "i0"), ("user", 0), ("type", "cpu"), ("via", 0))),
        Act(8.0, "engine", (("trouble", "shows_old"), ("lasts", 40.0), ("p", 1.0), ("by", 5.0))),
        Act(at, "vanishes", (("name", "i0"),)),
    )
    wrong = simulate(Story(7, Setup(latency=0.001), acts)).wrong
    assert all("was closed at" in sentence for sentence in wrong), wrong
    return bool(wrong)


def test_a_meter_may_end_with_a_listing_that_still_showed_it() -> None:
    assert [at for at in TIMES if billed_too_long(at)] == []


def test_no_other_excuse_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "was_shown", lambda *_: None)
    assert 0 < sum(map(billed_too_long, TIMES)) < len(TIMES) / 2


def test_a_meter_that_ends_when_it_was_noticed_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bills_until_it_was_noticed(monkeypatch)
    assert all(map(billed_too_long, TIMES))
