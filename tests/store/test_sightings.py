"""A meter ends with the last second that was seen, whoever looks and whatever crashed."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, select
from tests.stock import REGION, START, HandClock, Stocked
from tests.store.test_record import launched

from tidemill.model.instance import Instance
from tidemill.model.lifecycle import Event
from tidemill.store import fleet, instances, sightings
from tidemill.store.schema import meters


class Metered:
    """One running instance whose meter was opened at ``START``, and what happens to it."""

    def __init__(self, stocked: Stocked, clock: HandClock) -> None:
        self.stocked = stocked
        self.instance = launched(stocked, clock)
        self.happens(Event.REACHABLE, 0)

    def happens(self, event: Event, second: float, *, ended: float | None = None) -> Instance:
        ended_at = None if ended is None else at(ended)
        self.instance = self.stocked.database.run(
            lambda c: instances.record(c, self.instance, event, at(second), ended_at=ended_at)
        )
        return self.instance

    def listed(self, second: float, *, missing: bool = False, answered: float | None = None) -> None:
        """Begun at ``second``; ``answered`` is when it was written down, at once by default."""
        ids = {self.instance.id} if missing else set[str]()
        now = at(second if answered is None else answered)
        self.stocked.database.run(lambda c: sightings.sighted(c, REGION.id, at(second), ids, now=now))

    def billed(self) -> float | None:
        """Seconds on the last meter; None while it is open."""
        rows = self.stocked.database.run(lambda c: c.execute(select(meters).order_by(meters.c.id)).all())
        last = rows[-1]
        return None if last.closed_at is None else (last.closed_at - last.opened_at).total_seconds()


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


@pytest.fixture
def metered(stocked: Stocked, clock: HandClock) -> Metered:
    return Metered(stocked, clock)


def test_what_its_owner_ends_is_billed_until_then(metered: Metered) -> None:
    metered.listed(50)
    assert metered.billed() is None
    metered.happens(Event.STOP, 70)
    assert metered.billed() == 70


@pytest.mark.parametrize("event", [Event.STOP, Event.UNPAID, Event.EXPIRED])
def test_in_a_long_outage_the_last_sighting_counts_for_a_while(metered: Metered, event: Event) -> None:
    metered.listed(50)
    metered.happens(event, 3000)
    assert metered.billed() == 50 + sightings.COUNTS_FOR.total_seconds()


@pytest.mark.parametrize("event", [Event.ABSENT, Event.EXITED])
def test_what_was_found_ended_is_billed_until_it_was_last_seen(metered: Metered, event: Event) -> None:
    metered.listed(50)
    metered.happens(event, 100)
    assert metered.billed() == 50


@pytest.mark.parametrize(
    ("ended", "billed"),
    [(80, 80), (30, 50), (500, 100)],
    ids=["the engine knows", "an engine's clock behind ours", "an engine's clock ahead of ours"],
)
def test_the_engine_may_know_better_within_reason(metered: Metered, ended: float, billed: float) -> None:
    """Between the last sighting and now it is believed; beyond them it contradicts what was seen."""
    metered.listed(50)
    metered.happens(Event.EXITED, 100, ended=ended)
    assert metered.billed() == billed


def test_never_seen_again_costs_nothing(metered: Metered) -> None:
    metered.happens(Event.ABSENT, 3600)
    assert metered.billed() == 0


def test_a_listing_without_it_says_nothing_for_it(metered: Metered) -> None:
    """The server dies between the listing that missed it and the record of that: others go by the meter."""
    metered.listed(50)
    metered.listed(60, missing=True)
    metered.listed(70, missing=True)
    metered.happens(Event.ABSENT, 80)
    assert metered.billed() == 50


def test_what_was_missing_before_its_owner_stopped_it_is_not_billed_to_the_stop(metered: Metered) -> None:
    metered.listed(50)
    metered.listed(60, missing=True)
    metered.happens(Event.TERMINATE, 90)
    assert metered.billed() == 50


def test_what_came_back_in_the_same_start_was_running(metered: Metered) -> None:
    metered.listed(50)
    metered.listed(60, missing=True)
    metered.listed(70)
    metered.happens(Event.ABSENT, 80)
    assert metered.billed() == 70


def test_a_listing_that_a_later_one_overtook_takes_nothing_back(metered: Metered) -> None:
    metered.listed(50)
    metered.listed(20, answered=60, missing=True)
    metered.happens(Event.ABSENT, 100)
    assert metered.billed() == 50


def test_a_listing_that_a_later_one_overtook_does_not_contradict_it(metered: Metered) -> None:
    metered.listed(30)
    metered.listed(50, missing=True)
    metered.listed(40, answered=60)
    metered.happens(Event.ABSENT, 100)
    assert metered.billed() == 30


def test_a_sighting_of_a_clock_that_was_set_back_holds_no_listing_up(metered: Metered) -> None:
    metered.listed(3600)
    metered.listed(50)
    metered.happens(Event.ABSENT, 100)
    assert metered.billed() == 50


def test_a_listing_from_before_it_ran_does_not_speak_against_it(metered: Metered) -> None:
    metered.listed(-5, missing=True)
    metered.happens(Event.STOP, 40)
    assert metered.billed() == 40


def test_a_clock_that_was_set_back_bills_nothing_backwards(metered: Metered) -> None:
    metered.listed(50)
    metered.happens(Event.STOP, -3600)
    assert metered.billed() == 0


def test_many_missing_at_once_are_all_marked(stocked: Stocked, clock: HandClock) -> None:
    several = [launched(stocked, clock) for _ in range(3)]
    running = [
        stocked.database.run(lambda c, i=one: instances.record(c, i, Event.REACHABLE, at(0)))
        for one in several
    ]
    strangers = {f"notebook-{number}" for number in range(2 * sightings.IDS_MOST)}
    missing = strangers | {one.id for one in running}
    stocked.database.run(lambda c: sightings.sighted(c, REGION.id, at(10), missing, now=at(10)))
    kept = stocked.database.run(lambda c: c.execute(select(meters.c.seen_until)).scalars().all())
    assert kept == [at(0)] * 3


def test_a_full_listing_reads_the_meters_that_one_contradicted_and_no_others(stocked: Stocked) -> None:
    """It is written where requests wait for it, and a hundred thousand meters may be open."""
    if not stocked.database.is_sqlite:
        pytest.skip("the plan of a small table says nothing there")

    def work(connection: Connection) -> list[str]:
        sql = "EXPLAIN QUERY PLAN " + str(sightings._WAITING.statement.compile(connection))
        return [row.detail for row in connection.exec_driver_sql(sql, (REGION.id,))]

    meter, *rest = stocked.database.run(work)
    assert "INDEX ix_meters_contradicted" in meter
    assert not any(line.startswith("SCAN") for line in rest), rest


def test_a_full_pass_finds_what_is_released_and_due_among_all_that_ever_was_there(stocked: Stocked) -> None:
    if not stocked.database.is_sqlite:
        pytest.skip("the plan of a small table says nothing there")

    def work(connection: Connection) -> list[str]:
        sql = str(fleet._RELEASED_AND_DUE.statement.compile(connection))
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + sql, (1,) * sql.count("?"))
        return [row.detail for row in plan]

    assert stocked.database.run(work) == ["SEARCH instances USING INDEX ix_instances_due (due_at>?)"]
