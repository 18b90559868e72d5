"""What time costs: the rates of a tariff, cut into segments of one rate each, and what they add up to.

Everything is exact: instants are whole microseconds, rates whole micro-units per hour, and an amount is
rounded once, by :func:`due`, for the whole time since a meter was opened. What is owed for a part of it
is the difference of two such amounts, so however the time is cut, the parts add up to the whole.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tidemill.model.offer import ChargeMode

PERIODS_MOST = 1000  # days, weeks or months that can be bought at once
POSTED_EVERY = timedelta(minutes=5)  # what a running instance cost goes into the ledger this often
HOUR = timedelta(hours=1)
HELD_FOR = HOUR  # what this long will cost is set aside while an hourly instance runs

DAY_MINUTES = 24 * 60
HOUR_MICROSECONDS = 3600 * 10**6
MICROSECOND = timedelta(microseconds=1)
DAYS_KEPT = 20_000  # days of tariffs that are remembered, some hundred bytes each
WEIGHTS_KEPT = 1024
STEP = timedelta(hours=6)  # clocks are not changed twice within it


class Band(NamedTuple):
    """A stretch of the local week with a rate of its own: the tide.

    Attributes:
        name: what the customer reads ("night").
        weekdays: 0 for Monday to 6 for Sunday, the days on which it begins.
        begins, ends: minutes since local midnight, 0 to 1440. One that ends no later than it begins
            runs over midnight into the next day; the same twice is a whole day.
        rate: micro-units per hour.
    """

    name: str
    weekdays: frozenset[int]
    begins: int
    ends: int
    rate: int

    def holds(self, weekday: int, minute: float) -> bool:
        """Whether it covers that minute of a local day."""
        if self.begins < self.ends:
            return weekday in self.weekdays and self.begins <= minute < self.ends
        today = weekday in self.weekdays and minute >= self.begins
        return today or ((weekday - 1) % 7 in self.weekdays and minute < self.ends)


class Tariff(NamedTuple):
    """Rates over time: the first band that holds at the local time of ``zone``, else ``rate``.

    ``rate`` is in micro-units per hour; ``zone`` is a name of the IANA time zone database.
    """

    rate: int
    bands: tuple[Band, ...] = ()
    zone: str = "UTC"

    @property
    def rate_most(self) -> int:
        """The highest rate there is at any time."""
        return max(self.rate, *(band.rate for band in self.bands)) if self.bands else self.rate

    def at(self, instant: datetime) -> tuple[str, int]:
        """The band's name ("" for none) and its rate at an instant."""
        local = instant.astimezone(ZoneInfo(self.zone))
        minute = local.hour * 60 + local.minute
        for band in self.bands:
            if band.holds(local.weekday(), minute):
                return band.name, band.rate
        return "", self.rate


@dataclass(frozen=True, slots=True)
class Segment:
    """A time [start, end) at one rate."""

    start: datetime
    end: datetime
    band: str
    rate: int

    @property
    def numerator(self) -> int:
        """What it costs, in micro-units times the microseconds of an hour."""
        return (self.end - self.start) // MICROSECOND * self.rate


def segments(tariff: Tariff, start: datetime, end: datetime) -> tuple[Segment, ...]:
    """The time [start, end) as stretches of one band each, in order, without gap or overlap.

    A band holds by the wall clock: an hour that the clock shows twice in autumn is twice in its band,
    one that it skips in spring is in none.
    """
    if end <= start:
        return ()
    if not tariff.bands:
        return (Segment(start, end, "", tariff.rate),)
    found: list[Segment] = []
    day = start.astimezone(UTC).date()
    while datetime.combine(day, time(), UTC) < end:
        for part in _of_day(tariff, day):
            begins, ends = max(part.start, start), min(part.end, end)
            if begins >= ends:
                continue
            if found and (found[-1].band, found[-1].rate) == (part.band, part.rate):
                found[-1] = Segment(found[-1].start, ends, part.band, part.rate)
            else:
                found.append(Segment(begins, ends, part.band, part.rate))
        day += timedelta(days=1)
    return tuple(found)


@lru_cache(maxsize=DAYS_KEPT)
def _of_day(tariff: Tariff, day: date) -> tuple[Segment, ...]:
    """The stretches of one day of UTC; every meter of a tariff asks for the same days."""
    start = datetime.combine(day, time(), UTC)
    end = start + timedelta(days=1)
    instants = sorted({start, end, *_edges(tariff, start, end)})
    return tuple(Segment(begins, ends, *tariff.at(begins)) for begins, ends in pairwise(instants))


def _edges(tariff: Tariff, start: datetime, end: datetime) -> Iterator[datetime]:
    """Every instant inside at which a band may begin or end, or the zone's clock is changed."""
    zone = ZoneInfo(tariff.zone)
    minutes = {0} | {edge % DAY_MINUTES for band in tariff.bands for edge in (band.begins, band.ends)}
    day = start.astimezone(zone).date() - timedelta(days=1)
    last = end.astimezone(zone).date() + timedelta(days=1)
    while day <= last:
        for minute in minutes:
            wall = datetime.combine(day, time(minute // 60, minute % 60), zone)
            for fold in (0, 1):  # an hour that comes twice has its edges twice
                edge = wall.replace(fold=fold).astimezone(UTC)
                if start < edge < end:
                    yield edge
        day += timedelta(days=1)
    yield from _clock_changes(zone, start, end)


def _clock_changes(zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[datetime]:
    """Instants inside at which the zone's clock is set to another offset from UTC."""
    before = start
    while before < end:
        after = min(before + STEP, end)
        if _offset(zone, before) != _offset(zone, after):
            low, high = before, after  # the offset is the old one at low, and another at high
            while high - low > MICROSECOND:
                middle = low + (high - low) / 2
                low, high = (middle, high) if _offset(zone, middle) == _offset(zone, low) else (low, middle)
            if high < end:
                yield high
        before = after


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta | None:
    return instant.astimezone(zone).utcoffset()


def due(parts: Sequence[Segment]) -> int:
    """What these segments cost together, in micro-units, rounded down."""
    return due_with_rest(0, sum(part.numerator for part in parts))[0]


@lru_cache(maxsize=WEIGHTS_KEPT)
def weight(tariff: Tariff, start: datetime, end: datetime) -> int:
    """What the time [start, end) costs, not rounded: in micro-units times the microseconds of an hour.

    Kept for a while: what one listing showed running is charged for the same time.
    """
    return sum(part.numerator for part in segments(tariff, start, end))


def due_with_rest(rest: int, weight: int) -> tuple[int, int]:
    """What a :func:`weight` costs after what was left over before; the one place that rounds, down.

    ``rest`` is what was not enough for a micro-unit, in the unit of ``weight``. Returns the amount and the
    new rest. Given from call to call, all amounts together are what the whole time costs, however it was
    cut.
    """
    return divmod(rest + weight, HOUR_MICROSECONDS)


def runs_out(rates: Mapping[Tariff, int], left: int, now: datetime, horizon: datetime) -> datetime | None:
    """When ``left`` micro-units are used up by so many of each tariff at once; None for not by ``horizon``.

    To the second, and not later than it is so.
    """

    def used(until: datetime) -> int:
        together = sum(count * weight(tariff, now, until) for tariff, count in rates.items())
        return together // HOUR_MICROSECONDS

    if left < 0:
        return now
    left = max(left, 1)  # with nothing left, what is free at the moment goes on
    if used(horizon) < left:
        return None
    low, high = now, horizon
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        low, high = (low, middle) if used(middle) >= left else (middle, high)
    return low


def period_end(mode: ChargeMode, begin: datetime, periods: int, zone: str) -> datetime:
    """When ``periods`` periods bought in advance are over.

    A day is 24 hours and a week seven of them. A month is a calendar month by the clock of ``zone``: the
    same wall time on the same day of a later month, or on its last day when it has no such day. It is
    counted from ``begin``, so that one that began on the 31st comes back to it.
    """
    if mode is ChargeMode.PER_DAY:
        return begin + timedelta(days=periods)
    if mode is ChargeMode.PER_WEEK:
        return begin + timedelta(weeks=periods)
    if mode is not ChargeMode.PER_MONTH:
        raise ValueError(f"{mode} is not bought in advance")
    local = begin.astimezone(ZoneInfo(zone))
    months = local.year * 12 + local.month - 1 + periods
    year, month = divmod(months, 12)
    last_day = monthrange(year, month + 1)[1]
    there = date(year, month + 1, min(local.day, last_day))
    return datetime.combine(there, local.timetz()).replace(fold=local.fold).astimezone(UTC)


def month_of(instant: datetime, zone: str) -> tuple[datetime, datetime]:
    """When the calendar month of a zone's clock began that an instant is in, and when the next begins."""
    first = instant.astimezone(ZoneInfo(zone)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0, fold=0
    )
    following = (first + timedelta(days=32)).replace(day=1)
    return first.astimezone(UTC), following.astimezone(UTC)
