"""The tide: what a type costs when, told by the clock of whoever looks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

from tidemill.cli.table import Column
from tidemill.cli.telling import money, span

if TYPE_CHECKING:
    from tidemill.wire.billing import SegmentInfo

BAR = 24  # characters of the dearest
NOW = "now"


def clock_time(instant: datetime, zone: tzinfo | None = None) -> str:
    """``Wed 25 Nov 22:00``, in the local time zone where none is said."""
    return f"{instant.astimezone(zone):%a %d %b %H:%M}"


def next_change(segments: Sequence[SegmentInfo], now: datetime) -> SegmentInfo | None:
    """The next time at another price; None where there is none in sight."""
    price = next((each.price for each in segments if each.start <= now < each.end), None)
    return next((each for each in segments if each.start > now and each.price != price), None)


def change_told(
    segments: Sequence[SegmentInfo], now: datetime, currency: str, zone: tzinfo | None = None
) -> str:
    """``0.80 EUR/h (night) from Wed 25 Nov 22:00, in 3h``; what is so for the whole time that is known."""
    change = next_change(segments, now)
    if change is None:
        return f"none within {_length(now, segments[-1].end)}" if segments else ""
    called = f" ({change.band})" if change.band else ""
    when = f"{clock_time(change.start, zone)}, in {_length(now, change.start)}"
    return f"{money(change.price, currency)}/h{called} from {when}"


def columns(
    segments: Sequence[SegmentInfo], now: datetime, currency: str, zone: tzinfo | None = None
) -> list[Column]:
    """A line for each time at one price, with a bar as long as that is high."""
    dearest = max((each.price for each in segments), default=0) or 1
    return [
        Column("FROM", lambda each: NOW if each.start <= now else clock_time(each.start, zone), firm=True),
        Column("UNTIL", lambda each: clock_time(each.end, zone), firm=True),
        Column("FOR", lambda each: _length(max(each.start, now), each.end), right=True),
        Column("BAND", lambda each: each.band),
        Column(f"{currency}/h", lambda each: money(each.price), right=True, firm=True),
        Column("", lambda each: "█" * round(each.price / dearest * BAR), firm=True),
    ]


def _length(start: datetime, end: datetime) -> str:
    """To the minute: what ends in 47:59:58 ends in 48h."""
    return span(round((end - start).total_seconds() / 60) * 60)
