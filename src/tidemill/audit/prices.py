"""What time costs, reckoned cell by cell over a grid: slow, plain and exact.

A UTC day is cut into cells so small that no band begins or ends and no clock is changed inside one: quarters
of an hour, or less where a band begins at an odd minute. Everything is whole: instants in microseconds since
1970, rates in micro-units per hour.
"""

from __future__ import annotations

from calendar import monthrange
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

HOUR = 3600 * 10**6  # microseconds
DAY = 24 * HOUR
MINUTE = 60 * 10**6
WEEK_MINUTES = 7 * 24 * 60
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Stretch(NamedTuple):
    """A band of the week: on which days it begins (0 is Monday), at which minute, for how many."""

    weekdays: tuple[int, ...]
    begins: int
    minutes: int


class Grid(NamedTuple):
    """Which stretch holds when, by the clock of a zone."""

    stretches: tuple[Stretch, ...]
    zone: str
    cell: int  # microseconds


class Rates(NamedTuple):
    """Micro-units per hour: ``base``, and one for each stretch of the grid."""

    base: int
    of_stretch: tuple[int, ...] = ()
    grid: Grid | None = None

    def numerator(self, since: int, until: int) -> int:
        """What the time costs, in micro-units times the microseconds of an hour."""
        if self.grid is None:
            return max(0, until - since) * self.base
        total, at = 0, since
        while at < until:
            day, into = divmod(at, DAY)
            if not into and at + DAY <= until:
                total += sum(
                    count * self.grid.cell * self._rate(index)
                    for index, count in _whole_day(self.grid, day).items()
                )
                at += DAY
                continue
            cell = into // self.grid.cell
            end = min(until, day * DAY + (cell + 1) * self.grid.cell)
            total += (end - at) * self._rate(_cells(self.grid, day)[cell])
            at = end
        return total

    def _rate(self, stretch: int) -> int:
        return self.base if stretch < 0 else self.of_stretch[stretch]


def rates(base: int, bands: list[dict[str, Any]], zone: str) -> Rates:
    """The rates of a row of prices."""
    if not bands:
        return Rates(base)
    stretches = tuple(stretch(each["weekdays"], each["begins"], each["ends"]) for each in bands)
    minutes = gcd(15, *(edge for each in bands for edge in (each["begins"], each["ends"])))
    return Rates(base, tuple(each["rate"] for each in bands), Grid(stretches, zone, minutes * MINUTE))


def stretch(weekdays: Iterable[int], begins: int, ends: int) -> Stretch:
    """A band from minute to minute; one that ends no later than it begins, ends on the next day."""
    return Stretch(tuple(weekdays), begins, ends - begins if begins < ends else ends + 1440 - begins)


@lru_cache(maxsize=2000)
def _whole_day(grid: Grid, day: int) -> Counter[int]:
    return Counter(_cells(grid, day))


@lru_cache(maxsize=2000)
def _cells(grid: Grid, day: int) -> tuple[int, ...]:
    """Which stretch holds in each cell of a UTC day; -1 for none."""
    zone = ZoneInfo(grid.zone)
    return tuple(_stretch_at(grid, zone, day * DAY + into) for into in range(0, DAY, grid.cell))


def _stretch_at(grid: Grid, zone: ZoneInfo, at: int) -> int:
    local = instant(at).astimezone(zone)
    now = local.weekday() * 1440 + local.hour * 60 + local.minute
    for index, stretch in enumerate(grid.stretches):
        for weekday in stretch.weekdays:
            if (now - weekday * 1440 - stretch.begins) % WEEK_MINUTES < stretch.minutes:
                return index
    return -1


def instant(at: int) -> datetime:
    """Microseconds since 1970 as an instant."""
    return EPOCH + timedelta(microseconds=at)


def periods_later(at: int, mode: str, periods: int, zone: str) -> int:
    """When so many days, weeks or calendar months are over that began at ``at``."""
    if mode == "perDay":
        return at + periods * DAY
    if mode == "perWeek":
        return at + periods * 7 * DAY
    begin = instant(at).astimezone(ZoneInfo(zone))
    months = begin.month - 1 + periods
    year, month = begin.year + months // 12, months % 12 + 1
    day = min(begin.day, monthrange(year, month)[1])
    ends = begin.replace(year=year, month=month, day=day).astimezone(UTC)
    return (ends - EPOCH) // timedelta(microseconds=1)
