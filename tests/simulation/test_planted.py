"""The test of the test: bugs that somebody might write are each found, within a bounded number of seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.planted import BUGS
from tests.simulation.planted_money import MONEY_BUGS
from tests.simulation.shrink import kinds, shrink
from tests.simulation.story import draw
from tests.simulation.world import Outcome, simulate

pytestmark = pytest.mark.slow

FIRST = 20_000
WITHIN = 400  # as many as scripts/test runs
# Bugs that took more than a few seeds, and which one found each: that is asked first, so that nobody waits
# for the others. One that finds its bug no longer, since stories are drawn otherwise, costs nothing else.
KNOWN = {
    "settles_over_what_was_asked": 529,
    "looks_before_it_claims": 72,
    "never_stops_who_runs_dry": 60,
    "stops_too_late": 60,
    "restarts_under_the_same_number": 35,
    "bills_the_disk_after_its_end": 28,
    "forgets_changed_keys": 24,
    "forgets_the_reservation_on_start": 20,
    "counts_an_overdue_removal_as_done": 19,
    "forgets_the_version_check": 15,
    "bills_until_it_was_noticed": 11,
    "trusts_an_observation_of_an_older_start": 10,
    "releases_devices_of_the_failed_at_once": 9,
    "never_takes_over": 7,
}


def find(known: int = 1) -> tuple[int, Outcome]:
    """The first seed that fails, as the number of seeds that it took; the ``known`` one before the others."""
    for taken in (known, *range(1, WITHIN + 1)):
        outcome = simulate(draw(FIRST + taken - 1))
        if outcome.wrong:
            return taken, outcome
    pytest.fail(f"not found in {WITHIN} seeds")


@pytest.mark.parametrize("bug", BUGS + MONEY_BUGS, ids=lambda bug: bug.__name__)
def test_is_found(
    bug: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    bug(monkeypatch)
    taken, outcome = find(KNOWN.get(bug.__name__, 1))
    record_property("seeds", taken)
    print(f"{bug.__name__}: found in {taken} seeds: {outcome.wrong[0]}")


def test_a_failing_story_is_told_short(monkeypatch: pytest.MonkeyPatch) -> None:
    bug = next(bug for bug in BUGS if bug.__name__ == "forgets_the_key_of_a_launch")
    bug(monkeypatch)
    _, outcome = find()
    short = shrink(outcome.story, simulate)
    told = simulate(short)
    assert kinds(told) & kinds(outcome)
    assert len(short.acts) <= 4
    assert any(act.what == "launch" and "key" in dict(act.given) for act in short.acts)
    monkeypatch.undo()
    assert simulate(short).wrong == []
