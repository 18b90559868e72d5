"""Segments of a tariff: no gap, no overlap, the right rate at every instant, whatever the clocks do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.model.offer import ChargeMode
from tidemill.model.tariff import Band, Tariff, due, period_end, segments

# Ordinary, 30 minutes of summer time, 45-minute offsets with and without it, south, none, and one whose
# offset was changed for good.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Asia/Kathmandu",
    "America/Sao_Paulo",
    "Africa/Casablanca",
    "Pacific/Apia",
    "UTC",
)
EVERY_DAY = frozenset(range(7))
NIGHT = Band("night", EVERY_DAY, 22 * 60, 6 * 60, 600_000)
TIDE = Tariff(1_000_000, (NIGHT,), "Europe/Berlin")

instants = st.datetimes(
    datetime(2011, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    datetime(2028, 12, 31),  # noqa: DTZ001
    timezones=st.just(UTC),
    allow_imaginary=False,
)
edges = st.one_of(st.integers(0, 24 * 60), st.sampled_from([0, 120, 150, 180, 24 * 60]))
bands = st.builds(
    Band,
    st.sampled_from(["ebb", "slack"]),
    st.frozensets(st.integers(0, 6)),
    edges,
    edges,
    st.integers(0, 10**9),
)
tariffs = st.builds(
    Tariff, st.integers(0, 10**9), st.lists(bands, max_size=4).map(tuple), st.sampled_from(ZONES)
)
lengths = st.timedeltas(timedelta(0), timedelta(days=9))


@given(tariffs, instants, lengths, st.lists(st.floats(0, 1), max_size=20))
def test_segments_cover_the_time_once_at_the_rate_of_every_instant(
    tariff: Tariff, start: datetime, length: timedelta, shares: list[float]
) -> None:
    end = start + length
    found = segments(tariff, start, end)
    if length:
        assert (found[0].start, found[-1].end) == (start, end)
    assert all(before.end == after.start for before, after in pairwise(found))
    assert all(part.start < part.end for part in found)
    for instant in (start + length * share for share in shares):
        for part in found:
            if part.start <= instant < part.end:
                assert (part.band, part.rate) == tariff.at(instant)


@settings(max_examples=40)
@given(tariffs, st.sampled_from(ZONES), st.integers(2012, 2027))
def test_every_minute_around_a_change_of_the_clock_has_the_rate_of_the_wall_clock(
    tariff: Tariff, zone: str, year: int
) -> None:
    """The oracle is a clock on the wall, read every quarter of an hour."""
    tariff = Tariff(tariff.rate, tariff.bands, zone)
    local, hour = ZoneInfo(zone), timedelta(hours=1)
    changes = [
        instant
        for day in range(0, 365)
        if (instant := datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=day)).astimezone(local).utcoffset()
        != (instant + 24 * hour).astimezone(local).utcoffset()
    ]
    for change in changes[:2]:
        start, end = change - 6 * hour, change + 30 * hour
        found = segments(tariff, start, end)
        for quarter in range(36 * 4):
            instant = start + timedelta(minutes=15 * quarter, seconds=7)
            part = next(part for part in found if part.start <= instant < part.end)
            assert (part.band, part.rate) == tariff.at(instant), (change, instant)


@given(tariffs, instants, lengths, st.lists(st.floats(0, 1), max_size=8))
def test_however_the_time_is_cut_the_parts_cost_what_the_whole_does(
    tariff: Tariff, start: datetime, length: timedelta, shares: list[float]
) -> None:
    cuts = sorted({start, start + length, *(start + length * share for share in shares)})
    whole = due(segments(tariff, start, start + length))
    parts = [part for before, after in pairwise(cuts) for part in segments(tariff, before, after)]
    assert due(parts) == whole
    posted = 0
    for cut in cuts:  # what is posted at each cut: due so far, minus posted so far
        owed = due(segments(tariff, start, cut)) - posted
        assert owed >= 0
        posted += owed
    assert posted == whole


@given(instants, st.integers(0, 10**6), st.integers(0, 10**9))
def test_a_flat_rate_is_its_share_of_an_hour_to_the_microsecond(
    start: datetime, microseconds: int, rate: int
) -> None:
    end = start + timedelta(microseconds=microseconds)
    assert due(segments(Tariff(rate), start, end)) == microseconds * rate // (3600 * 10**6)


@pytest.mark.parametrize(
    ("day", "hours_at_night"),
    [("2026-10-24", 9), ("2026-03-28", 7), ("2026-06-10", 8)],
    ids=["autumn: an hour twice", "spring: an hour missing", "summer"],
)
def test_a_night_over_a_change_of_the_clock(day: str, hours_at_night: int) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=ZoneInfo("Europe/Berlin"))
    next_noon = (noon + timedelta(days=1)).astimezone(UTC)  # by the wall clock
    found = segments(TIDE, noon.astimezone(UTC), next_noon)
    assert [part.band for part in found] == ["", "night", ""]
    assert found[1].end - found[1].start == timedelta(hours=hours_at_night)
    assert due(found) == hours_at_night * 600_000 + 16 * 1_000_000


def test_a_band_over_midnight_belongs_to_the_day_it_begins_on() -> None:
    friday = Tariff(10, (Band("friday night", frozenset({4}), 22 * 60, 6 * 60, 5),))
    found = segments(friday, datetime(2026, 3, 6, tzinfo=UTC), datetime(2026, 3, 8, tzinfo=UTC))
    assert [(part.start.day, part.start.hour, part.rate) for part in found] == [
        (6, 0, 10),
        (6, 22, 5),
        (7, 6, 10),
    ]


def test_the_first_band_that_holds_decides() -> None:
    sale = Band("sale", EVERY_DAY, 0, 0, 1)
    assert Tariff(10, (NIGHT, sale)).at(datetime(2026, 3, 6, 23, tzinfo=UTC)) == ("night", 600_000)
    assert Tariff(10, (NIGHT, sale)).at(datetime(2026, 3, 6, 12, tzinfo=UTC)) == ("sale", 1)


@pytest.mark.parametrize(
    ("begin", "months", "ends"),
    [
        ("2026-01-31T10:00:00+01:00", 1, "2026-02-28T10:00:00+01:00"),
        ("2026-01-31T10:00:00+01:00", 2, "2026-03-31T10:00:00+02:00"),
        ("2028-02-29T10:00:00+01:00", 12, "2029-02-28T10:00:00+01:00"),
        ("2027-11-30T23:30:00+01:00", 3, "2028-02-29T23:30:00+01:00"),
        ("2026-09-25T02:30:00+02:00", 1, "2026-10-25T02:30:00+02:00"),
    ],
)
def test_a_month_is_a_calendar_month_by_the_clock_of_the_region(begin: str, months: int, ends: str) -> None:
    found = period_end(ChargeMode.PER_MONTH, datetime.fromisoformat(begin), months, "Europe/Berlin")
    assert found == datetime.fromisoformat(ends)


@given(instants, st.integers(1, 60), st.integers(1, 60), st.sampled_from(ZONES))
def test_more_months_end_later_and_days_and_weeks_are_exact(
    begin: datetime, months: int, more: int, zone: str
) -> None:
    first = period_end(ChargeMode.PER_MONTH, begin, months, zone)
    assert begin < first < period_end(ChargeMode.PER_MONTH, begin, months + more, zone)
    assert period_end(ChargeMode.PER_DAY, begin, months, zone) - begin == timedelta(days=months)
    assert period_end(ChargeMode.PER_WEEK, begin, months, zone) - begin == timedelta(days=7 * months)


def test_an_hourly_mode_has_no_end() -> None:
    with pytest.raises(ValueError, match="in advance"):
        period_end(ChargeMode.PER_HOUR, datetime(2026, 1, 1, tzinfo=UTC), 1, "UTC")
