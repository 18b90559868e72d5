"""What a meter owes, and the postings that pay it: pure, so that every rule can be tested by itself.

Due is what the time since the meter was opened costs, up to the instant its instance was last seen running;
posted is what the ledger has of it. A charge is the difference. Its id is made of the meter and the
instant, and what was not enough for a micro-unit is carried along (``Metered.rest``), so that however
often and whenever charges are made, they add up to the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from tidemill.model.instance import Instance
from tidemill.model.ledger import (
    EPOCH,
    REVENUE,
    WRITE_OFFS,
    Cause,
    Line,
    Posting,
    Purse,
    from_one,
    held_of,
    to_one,
)
from tidemill.model.tariff import HELD_FOR, HOUR_MICROSECONDS, MICROSECOND, Tariff, due_with_rest, weight


class MeterKind(StrEnum):
    """What is metered: the instance while it runs, or its data disk while there is one."""

    COMPUTE = "compute"
    DISK = "disk"


class Metered(NamedTuple):
    """A meter as far as it was posted, and up to when it may be.

    ``until`` is when it was closed, else the last instant at which its instance was seen running.
    ``rest`` is as of :func:`tidemill.model.tariff.due_with_rest`.
    """

    id: int
    kind: MeterKind
    user_id: str
    instance_id: str
    tariff: Tariff
    opened_at: datetime
    posted_until: datetime | None
    posted: int
    rest: int
    until: datetime
    closed: bool

    @property
    def since(self) -> datetime:
        return self.posted_until or self.opened_at


@dataclass(frozen=True, slots=True)
class Hold:
    """Money set aside for one start of an instance, and from which accounts it came."""

    id: str
    instance_id: str
    user_id: str
    parts: tuple[tuple[str, int], ...]

    @property
    def amount(self) -> int:
        return sum(amount for _, amount in self.parts)


class Paid(NamedTuple):
    """The outcome of charging one meter: what to write, and where it is posted now.

    ``spent`` is what the meter's postings come to together; ``broken`` are the holds that are gone.
    """

    postings: tuple[Posting, ...]
    posted_until: datetime
    spent: int
    rest: int
    broken: tuple[Hold, ...] = ()


def owed(meter: Metered) -> int:
    """Micro-units that the meter owes and were not posted yet."""
    return due_with_rest(meter.rest, weight(meter.tariff, meter.since, meter.until))[0]


def charge(meter: Metered, purse: Purse, now: datetime, holds: Sequence[Hold] = ()) -> Paid:
    """Take what the meter owes out of the purse.

    What was used before a voucher expired may be paid with it, also later. When the purse is empty the
    user's ``holds`` are broken into, one after the other; what even they do not pay for is our loss, and
    never a debt.
    """
    since, until = meter.since, meter.until
    if until <= since:
        return Paid((), since, meter.posted, meter.rest)
    paid = _pay(meter, purse)
    before: list[Posting] = []
    for hold in holds:
        if not paid.left:
            break
        purse.give_back(paid.parts)
        before.append(release(hold, now, purse))
        paid = _pay(meter, purse)
    broken = tuple(holds[: len(before)])
    lines, spent, rest = paid.lines, paid.spent, paid.rest
    if not lines:
        return Paid(tuple(before), until, meter.posted, rest, broken)
    posting = Posting(
        id=f"charge:{meter.id}:{micros(until)}",
        at=now,
        cause=Cause.CHARGE,
        user_id=meter.user_id,
        lines=merged(lines),
        instance_id=meter.instance_id,
        meter_id=meter.id,
        since=since,
        until=until,
        memo=_said(meter),
    )
    return Paid((*before, posting), until, meter.posted + spent, rest, broken)


class _Payment(NamedTuple):
    """What was taken for a meter, as lines and as parts; ``left`` is what there was not enough for."""

    lines: Sequence[Line]
    parts: Sequence[tuple[str, int]]
    spent: int
    rest: int
    left: int


def _pay(meter: Metered, purse: Purse) -> _Payment:
    lines: list[Line] = []
    taken: list[tuple[str, int]] = []
    rest, spent, left = meter.rest, 0, 0
    since, until = meter.since, meter.until
    cuts = (since, *purse.expiries(since, until), until)
    for begin, end in pairwise(cuts):
        amount, rest = due_with_rest(rest, weight(meter.tariff, begin, end))
        parts = purse.take(amount, end)
        short = amount
        for account_id, part in parts:
            lines.append(Line(account_id, REVENUE, part))
            short -= part
        if short:
            lines.append(Line(WRITE_OFFS, REVENUE, short))
        taken += parts
        spent += amount
        left += short
    return _Payment(lines, taken, spent, rest, left)


def _said(meter: Metered) -> str:
    return "data disk" if meter.kind is MeterKind.DISK else "time running"


def release(hold: Hold, now: datetime, purse: Purse | None = None) -> Posting:
    """Put what was set aside back where it came from."""
    if purse is not None:
        purse.give_back(hold.parts)
    return Posting(
        id=f"release:{hold.id}",
        at=now,
        cause=Cause.RELEASE,
        user_id=hold.user_id,
        lines=from_one(held_of(hold.user_id), hold.parts),
        instance_id=hold.instance_id,
        memo="no longer held",
    )


def set_aside(
    hold_id: str, instance_id: str, user_id: str, amount: int, purse: Purse, now: datetime, owed: int = 0
) -> tuple[Hold, Posting] | None:
    """Hold ``amount``, of what would be spent last first; None when there is not so much beside ``owed``."""
    if purse.available(now) < amount + owed:
        return None
    parts = tuple(purse.take(amount, now, last_first=True))
    hold = Hold(hold_id, instance_id, user_id, parts)
    posting = Posting(
        id=f"hold:{hold_id}",
        at=now,
        cause=Cause.HOLD,
        user_id=user_id,
        lines=to_one(parts, held_of(user_id)),
        instance_id=instance_id,
        memo="held while it runs",
    )
    return hold, posting


def term(
    instance: Instance, amount: int, begins: datetime, ends: datetime, purse: Purse, now: datetime
) -> Posting | None:
    """Pay for a term bought in advance; None for what costs nothing.

    What could be spent when it began may pay for it, also later: it was set aside for that.
    """
    parts = purse.take(amount, min(begins, now))
    lines = list(to_one(parts, REVENUE))
    left = amount - sum(part for _, part in parts)
    if left:
        lines.append(Line(WRITE_OFFS, REVENUE, left))
    if not lines:
        return None
    return Posting(
        id=f"term:{instance.id}:{micros(begins)}",
        at=now,
        cause=Cause.TERM,
        user_id=instance.user_id,
        lines=tuple(lines),
        instance_id=instance.id,
        since=begins,
        until=ends,
        memo=f"{instance.duration} x {instance.charge_mode.value}",
    )


def to_hold(instance: Instance, tariff: Tariff, now: datetime) -> int:
    """What a start sets aside: an hour that begins now, with its data disk, or the whole term."""
    if not instance.charge_mode.hourly:
        return instance.price_micro * instance.duration
    disk = Tariff(instance.disk_price_micro * instance.data_disk_gb)
    until = now + HELD_FOR
    return sum(due_with_rest(0, weight(each, now, until))[0] for each in (tariff, disk))


def to_keep(instance: Instance) -> int:
    """What an hour of its data disk costs: so much there must be for one that is Archived to come back."""
    return instance.disk_price_micro * instance.data_disk_gb * (HELD_FOR // MICROSECOND) // HOUR_MICROSECONDS


def merged(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The same with one line for each pair of accounts, in the order they came."""
    if len(lines) == 1:
        return tuple(lines)
    sums: dict[tuple[str, str], int] = {}
    for line in lines:
        pair = (line.debit, line.credit)
        sums[pair] = sums.get(pair, 0) + line.amount
    return tuple(Line(debit, credit, amount) for (debit, credit), amount in sums.items())


def micros(instant: datetime) -> int:
    """An instant as whole microseconds since 1970."""
    return (instant - EPOCH) // MICROSECOND
