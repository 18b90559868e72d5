"""From meters to the ledger: which meters are due, and one batch of charges as one transaction.

The number of statements of a batch does not depend on how many meters are in it. What was charged is on
the meter in the same transaction as its postings; several servers take different meters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from math import ceil
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from tidemill.model.charging import Hold, Metered, MeterKind, Paid, charge, owed, release, term
from tidemill.model.instance import Instance
from tidemill.model.ledger import Posting, Purse
from tidemill.model.offer import ChargeMode
from tidemill.model.tariff import POSTED_EVERY, Tariff
from tidemill.store import holds, ledger, tariffs
from tidemill.store.bulk import Bulk, plan_anew
from tidemill.store.instances import get
from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import Instant, instances, meters, regions
from tidemill.store.schema import holds as hold_rows

_KINDS = {kind.value: kind for kind in MeterKind}
_DISK = MeterKind.DISK.value
_METER = (
    select(
        meters.c.id,
        meters.c.kind,
        meters.c.user_id,
        meters.c.instance_id,
        meters.c.opened_at,
        meters.c.posted_until,
        meters.c.posted_micro,
        meters.c.posted_rest,
        meters.c.closed_at,
        # The disk is there while its engine answers; the instance while it is seen running.
        case((meters.c.kind == _DISK, None), else_=meters.c.seen_until).label("seen_until"),
        regions.c.seen_at,
        instances.c.charge_mode,
        instances.c.price_micro,
        instances.c.tariff_id,
        instances.c.disk_price_micro,
        instances.c.data_disk_gb,
    )
    .join(instances, instances.c.id == meters.c.instance_id)
    .outerjoin(regions, regions.c.id == instances.c.region_id)
)
_HOURLY = {mode.value for mode in ChargeMode if mode.hourly}
_MODES = {mode.value for mode in ChargeMode}
_FREE = Tariff(0)


def _owing(user_id: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    """A user's meters that are open and cost something, or are closed and not all posted.

    Each half says what its index is for (ix_meters_open, ix_meters_unposted), so that it is used.
    """
    mine, unposted = meters.c.user_id == user_id, meters.c.post_at.is_not(None)
    is_open, is_closed = meters.c.closed_at.is_(None), meters.c.closed_at.is_not(None)
    return or_(and_(mine, is_open), and_(mine, is_closed, unposted)), unposted


_OWING = _owing(bindparam("of_user"))
_IS_DUE = meters.c.post_at <= bindparam("now", type_=Instant)
_FIRST = (
    _METER.where(_IS_DUE)
    .order_by(meters.c.post_at, meters.c.id)
    .limit(bindparam("most"))
    .with_for_update(of=meters, skip_locked=True)
)
_DUE = Prepared(_FIRST)
_DUE_OF = Prepared(_FIRST.where(*_OWING))
_DUE_USERS = Prepared(
    select(meters.c.user_id).where(_IS_DUE).order_by(meters.c.post_at, meters.c.id).limit(bindparam("most"))
)
_PUT_OFF_USER = Prepared(
    update(meters).where(_IS_DUE, *_OWING).values(post_at=bindparam("again", type_=Instant))
)
_PUT_OFF = Prepared(
    update(meters).where(among(meters.c.id, "ids")).values(post_at=bindparam("again", type_=Instant))
)
_OWING_OF = Prepared(_METER.where(*_OWING).order_by(meters.c.id))
_OF_INSTANCES = Prepared(_METER.where(among(meters.c.instance_id, "ids")).order_by(meters.c.id))
_SINCE = func.coalesce(meters.c.posted_until, meters.c.opened_at)
# What is not posted comes to at most, in micro-units times microseconds of an hour.
_AT_MOST = (
    meters.c.rate_most * 1.0 * (func.coalesce(meters.c.closed_at, bindparam("now", type_=Instant)) - _SINCE)
)
_ACCRUING = Prepared(
    select(
        func.coalesce(func.sum(case((meters.c.closed_at.is_(None), meters.c.rate_most), else_=0)), 0),
        func.coalesce(func.sum(_AT_MOST), 0.0, type_=Float),
    ).where(*_OWING)
)
_OF_EACH = (
    select(meters.c.instance_id, (func.sum(_AT_MOST) / 3.6e9).label("owed"))
    .where(*_OWING)
    .group_by(meters.c.instance_id)
    .subquery()
)
_NOT_HELD = _OF_EACH.c.owed - func.coalesce(hold_rows.c.amount_micro, 0)
_UNCOVERED = Prepared(
    select(func.coalesce(func.sum(case((_NOT_HELD > 0, _NOT_HELD), else_=0.0)), 0.0, type_=Float))
    .select_from(_OF_EACH)
    .outerjoin(
        hold_rows,
        and_(
            hold_rows.c.instance_id == _OF_EACH.c.instance_id,
            hold_rows.c.ended_at.is_(None),
            ~hold_rows.c.capture,
        ),
    )
)
_POSTED = ("posted_until", "posted_micro", "posted_rest", "post_at")
_WRITE = Bulk(
    {"meter_id": meters.c.id.type} | {name: meters.c[name].type for name in _POSTED},
    lambda given: (
        update(meters).where(meters.c.id == given["meter_id"]).values({name: given[name] for name in _POSTED})
    ),
)


class _Row(NamedTuple):
    """One meter, with what its instance costs: the columns of ``_METER``."""

    id: int
    kind: str
    user_id: str
    instance_id: str
    opened_at: datetime
    posted_until: datetime | None
    posted_micro: int
    posted_rest: int
    closed_at: datetime | None
    seen_until: datetime | None
    seen_at: datetime | None
    charge_mode: str
    price_micro: int
    tariff_id: int | None
    disk_price_micro: int
    data_disk_gb: int


class Batch(NamedTuple):
    """What one batch did: how many meters and holds it saw, and how many postings it made.

    ``unreadable`` are meters that were left alone, by the instance, with what the server does not know.
    """

    seen: int
    postings: int
    unreadable: tuple[tuple[str, str], ...] = ()


def run_batch(connection: Connection, now: datetime, limit: int, user_id: str | None = None) -> Batch:
    """Charge up to ``limit`` meters that are due, then settle up to as many holds; of one user, if given."""
    plan_anew(connection)
    values = {"now": now, "most": limit}
    if user_id is None:
        rows = _DUE.all(connection, values)
    else:
        rows = _DUE_OF.all(connection, values | {"of_user": user_id})
    settled = holds.due(connection, now, limit, user_id) if len(rows) < limit else []
    if not rows and not settled:
        return Batch(0, 0)
    found, unreadable = _metered(connection, rows, now)
    if unreadable:
        _PUT_OFF.run(connection, {"ids": [row.id for row in unreadable], "again": now + POSTED_EVERY})
    users = {meter.user_id for meter in found} | {hold.user_id for hold, _ in settled}
    ledger.take_turns(connection, users)
    purses = {id: Purse(accounts) for id, accounts in ledger.accounts_of(connection, users).items()}
    postings, used = _charge(connection, found, purses, now)
    if len(rows) < limit:
        postings += _settle(connection, purses, holds.due(connection, now, limit, user_id), now, used)
    ledger.post(connection, postings)
    said = tuple((row.instance_id, f"{row.kind} {row.charge_mode}") for row in unreadable)
    return Batch(len(rows) + len(settled), len(postings), said)


def due_users(connection: Connection, now: datetime, limit: int) -> list[str]:
    """Whose meters and holds the next batch of that size has."""
    found = [row[0] for row in _DUE_USERS.all(connection, {"now": now, "most": limit})]
    return sorted({*found, *(hold.user_id for hold, _ in holds.due(connection, now, limit))})


def put_off(connection: Connection, user_id: str, now: datetime) -> None:
    """Have what is due of a user be due again a little later, so that the others' turn comes."""
    again = now + POSTED_EVERY
    _PUT_OFF_USER.run(connection, {"of_user": user_id, "now": now, "again": again})
    holds.put_off(connection, user_id, now, again)


def owing(connection: Connection, user_id: str, now: datetime) -> list[Metered]:
    """The user's meters that cost something and run, and those that were closed and are to be posted."""
    return _metered(connection, _OWING_OF.all(connection, {"of_user": user_id}), now)[0]


def uncovered(connection: Connection, user_id: str, now: datetime) -> int:
    """The most that a user owes, unposted, beyond what is held for it, in micro-units.

    Whoever spends the user's money on something new leaves this much of it.
    """
    ((amount,),) = _UNCOVERED.all(connection, {"of_user": user_id, "now": now})
    return ceil(amount)


def of_instance(connection: Connection, instance_id: str, now: datetime) -> list[Metered]:
    """All meters of an instance, oldest first."""
    return of_instances(connection, [instance_id], now)


def of_instances(connection: Connection, instance_ids: Collection[str], now: datetime) -> list[Metered]:
    """All meters of instances, oldest first."""
    return _metered(connection, _OF_INSTANCES.all(connection, {"ids": instance_ids}), now)[0]


def used_between(
    connection: Connection,
    user_id: str,
    since: datetime | None,
    until: datetime | None,
    *,
    offset: int,
    limit: int,
) -> tuple[list[str], int]:
    """Ids of a user's instances that had a meter open between two instants, the newest instance first.

    With how many there are in all.
    """
    conditions = [meters.c.instance_id == instances.c.id]
    if since is not None:
        conditions.append(or_(meters.c.closed_at.is_(None), meters.c.closed_at > since))
    if until is not None:
        conditions.append(meters.c.opened_at < until)
    mine = (instances.c.user_id == user_id, exists().where(*conditions))
    total = connection.execute(select(func.count()).select_from(instances).where(*mine)).scalar_one()
    ids = connection.execute(
        select(instances.c.id)
        .where(*mine)
        .order_by(instances.c.created_at.desc(), instances.c.id.desc())
        .offset(offset)
        .limit(limit)
    ).scalars()
    return list(ids), total


def _metered(
    connection: Connection, found_rows: Sequence[Sequence[Any]], now: datetime
) -> tuple[list[Metered], list[_Row]]:
    """Rows as what they are; and those that are left alone, since what they say is not known."""
    rows = [_Row._make(row) for row in found_rows]
    unreadable = [row for row in rows if row.charge_mode not in _MODES or row.kind not in _KINDS]
    if unreadable:
        rows = [row for row in rows if row.charge_mode in _MODES and row.kind in _KINDS]
    prices = tariffs.by_ids(connection, {row.tariff_id for row in rows if row.tariff_id is not None})
    rates = {id: price.tariff for id, price in prices.items()}
    return [_meter(row, rates, now) for row in rows], unreadable


def _meter(row: _Row, rates: Mapping[int, Tariff], now: datetime) -> Metered:
    since = row.posted_until or row.opened_at
    until = row.closed_at or min(now, row.seen_until or row.seen_at or since)
    return Metered(
        row.id,
        _KINDS[row.kind],
        row.user_id,
        row.instance_id,
        _tariff(row, rates),
        row.opened_at,
        row.posted_until,
        row.posted_micro,
        row.posted_rest,
        max(since, until),
        closed=row.closed_at is not None,
    )


def _tariff(row: _Row, rates: Mapping[int, Tariff]) -> Tariff:
    if row.kind == _DISK:
        return Tariff(row.disk_price_micro * row.data_disk_gb)
    if row.tariff_id is None or row.charge_mode not in _HOURLY:
        return _FREE
    return rates[row.tariff_id]


def _charge(
    connection: Connection, found: Sequence[Metered], purses: dict[str, Purse], now: datetime
) -> tuple[list[Posting], set[str]]:
    spares = _spare_holds(connection, found, purses, now)
    postings: list[Posting] = []
    written: list[tuple[Any, ...]] = []
    used: set[str] = set()
    again = now + POSTED_EVERY
    for meter in found:
        mine: Sequence[Hold] = ()
        if meter.user_id in spares:
            left = (hold for hold in spares[meter.user_id] if hold.id not in used)
            mine = sorted(left, key=lambda hold, id=meter.instance_id: hold.instance_id != id)
        paid = charge(meter, purses[meter.user_id], now, mine)
        for hold in paid.broken:
            holds.end(connection, hold.id, now, holds.CAPTURED)
            used.add(hold.id)
        postings += paid.postings
        written.append(_row(meter, paid, again))
    _WRITE.run(connection, written)
    return postings, used


def _row(meter: Metered, paid: Paid, again: datetime) -> tuple[Any, ...]:
    """A row of ``_WRITE``: until when the meter is posted, and when it is due again unless it is closed."""
    return meter.id, paid.posted_until, paid.spent, paid.rest, None if meter.closed else again


def _spare_holds(
    connection: Connection, found: Sequence[Metered], purses: dict[str, Purse], now: datetime
) -> dict[str, list[Hold]]:
    """Holds of users who have not enough beside them; few, as a rule none."""
    due: dict[str, int] = defaultdict(int)
    for meter in found:
        due[meter.user_id] += owed(meter)
    short = {id for id, amount in due.items() if amount > purses[id].available(now)}
    spares: dict[str, list[Hold]] = defaultdict(list)
    for hold in holds.of_users(connection, short) if short else ():
        spares[hold.user_id].append(hold)
    _know(connection, purses, (hold for mine in spares.values() for hold in mine))
    return spares


def _know(connection: Connection, purses: dict[str, Purse], released: Iterable[Hold]) -> None:
    """What is released goes back to accounts that may be empty, and is to be spent from there."""
    ids = {account_id for hold in released for account_id, _ in hold.parts}
    for account in ledger.by_ids(connection, ids):
        if account.user_id in purses:
            purses[account.user_id].know([account])


def _settle(
    connection: Connection,
    purses: dict[str, Purse],
    due: Sequence[tuple[Hold, bool]],
    now: datetime,
    used: set[str],
) -> list[Posting]:
    """End the holds that nothing more will be charged for; those of subscriptions pay for the term."""
    postings: list[Posting] = []
    _know(connection, purses, (hold for hold, captures in due if captures))
    for hold, captures in due:
        purse = purses.get(hold.user_id)
        if purse is None or hold.id in used:  # became due meanwhile; the next batch has it
            continue
        instance = get(connection, hold.instance_id) if captures else None
        if captures and instance is None:  # it cannot be read: left alone
            continue
        if not holds.end(connection, hold.id, now, holds.CAPTURED if captures else holds.RELEASED):
            continue
        postings += [release(hold, now, purse)] if instance is None else _spent(instance, hold, purse, now)
    return postings


def _spent(instance: Instance, hold: Hold, purse: Purse, now: datetime) -> list[Posting]:
    """What was set aside for a term pays for it."""
    postings = [release(hold, now, purse)]
    if instance.term_began_at and instance.term_ends_at:
        bought = term(instance, hold.amount, instance.term_began_at, instance.term_ends_at, purse, now)
        postings += [] if bought is None else [bought]
    return postings


def settle_term(connection: Connection, instance: Instance, now: datetime) -> None:
    """Pay for the term that the instance is or was in, where the billing has not come to it yet.

    Before its row says of another term that it began. It is the user's turn.
    """
    hold = holds.captured(connection, instance.id)
    if hold is None or not holds.end(connection, hold.id, now, holds.CAPTURED):
        return
    purse = Purse(ledger.accounts_of(connection, [instance.user_id])[instance.user_id])
    _know(connection, {instance.user_id: purse}, [hold])
    ledger.post(connection, _spent(instance, hold, purse, now))


def accruing(connection: Connection, user_id: str, now: datetime) -> tuple[int, float]:
    """The most that a user's open meters cost per hour together, and the most that all owe unposted.

    Both in micro-units, the second a float: bounds, for telling that there is plenty.
    """
    ((rate, weighted),) = _ACCRUING.all(connection, {"of_user": user_id, "now": now})
    return int(rate), float(weighted) / 3.6e9


def hurry(connection: Connection, user_id: str, instant: datetime, now: datetime) -> bool:
    """Have what a user's meters owe for the time before ``instant`` posted soon; False when it was."""
    late = (*_owing(literal(user_id)), instant > _SINCE)
    if connection.execute(select(meters.c.id).where(*late).limit(1)).first() is None:
        return False
    connection.execute(update(meters).where(*late, meters.c.post_at > now).values(post_at=now))
    return True
