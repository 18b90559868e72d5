"""What time does to one instance: a limit that its owner set, the end of a term, the end of retention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, State, Wanted
from tidemill.model.tariff import period_end


@dataclass(frozen=True, slots=True)
class Limits:
    """Hours before an end at which its owner is told, and how long data is kept without money."""

    term_notices: tuple[int, ...]
    retention: timedelta
    retention_notices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timed:
    """What is to be done now, and when to look again.

    ``told`` are lines for the history: a word and a sentence. ``notice`` is what whoever is inside has to
    know of the term's end; None while that is not near. ``renews`` asks for another term instead of
    ``event``, which happens where that cannot be paid.
    """

    event: Event | None = None
    reason: str = ""
    message: str = ""
    renews: bool = False
    told: tuple[tuple[str, str], ...] = ()
    notice: str | None = None
    again: datetime | None = None


def timed(instance: Instance, now: datetime, limits: Limits, spent_at: datetime | None) -> Timed:
    """What the timer of an instance means at ``now``.

    ``spent_at`` is when it will have cost its ``maxSpend``; None for not soon.
    """
    if instance.state is State.ARCHIVED:
        return _retention(instance, now, limits)
    runs = STATES[instance.state].wanted is Wanted.RUNNING
    if runs and instance.stop_at is not None and instance.stop_at <= now:
        message = f"It was to be stopped {instance.stop_after_seconds} seconds after it was reachable"
        return Timed(Event.EXPIRED, "StopAfter", message, again=_later(instance.term_ends_at, now))
    if runs and spent_at is not None and spent_at <= now:
        message = "It has cost as much as its maxSpend allows"
        return Timed(Event.UNPAID, "MaxSpend", message, again=_later(instance.term_ends_at, now))
    term = _term(instance, now, limits)
    if term.event is not None:
        return term
    limits_set = [instance.stop_at, spent_at] if runs else []
    return Timed(told=term.told, notice=term.notice, again=_first([term.again, *limits_set]))


def _retention(instance: Instance, now: datetime, limits: Limits) -> Timed:
    ends = instance.state_since + limits.retention
    if ends <= now:
        message = f"Nothing was paid in for {limits.retention}; its data was kept that long, and is removed"
        return Timed(Event.EXPIRED, "RetentionEnded", message)
    told, again = _notices(instance.timer_at, now, ends, limits.retention_notices)
    lines = [("retentionEnds", f"Its data is removed {_at(ends)}; pay in to keep it")] if told else []
    return Timed(told=tuple(lines), again=again)


def _term(instance: Instance, now: datetime, limits: Limits) -> Timed:
    ends = instance.term_ends_at
    if ends is None or instance.state in {State.TERMINATING, State.RELEASED}:
        return Timed()
    if ends <= now:
        return Timed(Event.EXPIRED, "TermEnded", f"Its term ended {_at(ends)}", renews=instance.auto_renew)
    told, again = _notices(instance.timer_at, now, ends, limits.term_notices)
    what = "and is renewed then" if instance.auto_renew else "and it is stopped then"
    sentence = f"Its term ends {_at(ends)}, {what}"
    is_near = ends - timedelta(hours=max(limits.term_notices, default=0)) <= now
    return Timed(
        told=(("termEnds", sentence),) if told else (), notice=sentence if is_near else None, again=again
    )


def _notices(
    planned: datetime | None, now: datetime, ends: datetime, hours: Iterable[int]
) -> tuple[bool, datetime]:
    """Whether one was due since ``planned``, and when the next is: at last the end itself."""
    instants = sorted(ends - timedelta(hours=each) for each in hours)
    told = any((planned or now) <= instant <= now for instant in instants)
    return told, next((instant for instant in instants if instant > now), ends)


def renewed_until(instance: Instance, zone: str) -> datetime:
    """The end of the term after the present one, counted from the first of its unbroken terms."""
    if instance.term_began_at is None or instance.term_ends_at is None:
        raise ValueError("it has no term")
    periods, ends = 0, instance.term_began_at
    while ends <= instance.term_ends_at:
        periods += instance.duration
        ends = period_end(instance.charge_mode, instance.term_began_at, periods, zone)
    return ends


def _at(instant: datetime) -> str:
    return f"at {instant:%Y-%m-%d %H:%M:%S} UTC"


def _later(instant: datetime | None, now: datetime) -> datetime | None:
    return None if instant is None else max(instant, now)


def _first(instants: Iterable[datetime | None]) -> datetime | None:
    return min((each for each in instants if each is not None), default=None)
