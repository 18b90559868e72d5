"""What the audit reads: rows as they were written, in batches, so that memory does not grow with them.

Instants are whole microseconds since 1970, amounts whole micro-units. Nothing of what the metering keeps for
itself (``posted_until``, ``posted_micro``, ``posted_rest``) is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Executable, exists, func, select, type_coerce

from tidemill.store.schema import (
    entries,
    events,
    holds,
    instances,
    ledger_accounts,
    meters,
    regions,
    tariffs,
    users,
)

AT_ONCE = 200  # instances, or users
ROWS_AT_ONCE = 2000


class PriceRow(NamedTuple):
    id: int
    type_id: str
    region_id: str
    charge_mode: str
    is_spot: bool
    price_micro: int
    bands: list[dict[str, Any]]
    zone: str
    valid_from: int


class InstanceRow(NamedTuple):
    """``seen_at`` is when its region was last listed."""

    id: str
    user_id: str
    type_id: str
    region_id: str
    charge_mode: str
    is_spot: bool
    duration: int
    price_micro: int
    tariff_id: int | None
    disk_price_micro: int
    data_disk_gb: int
    state: str
    term_ends_at: int | None
    seen_at: int | None


class EventRow(NamedTuple):
    instance_id: str
    at: int
    event: str
    from_state: str
    to_state: str


class MeterRow(NamedTuple):
    """``waits`` says that something of it may be posted yet."""

    instance_id: str
    id: int
    kind: str
    user_id: str
    opened_at: int
    closed_at: int | None
    seen_until: int | None
    waits: bool


class HoldRow(NamedTuple):
    instance_id: str
    id: str
    user_id: str
    amount_micro: int
    parts: list[tuple[str, int]]
    held_at: int
    settle_at: int | None
    capture: bool
    ended_at: int | None


class AccountRow(NamedTuple):
    user_id: str
    id: str
    kind: str
    amount_micro: int
    expires_at: int | None


class EntryRow(NamedTuple):
    posting_id: str
    at: int
    kind: str
    user_id: str
    debit: str
    credit: str
    amount: int
    instance_id: str | None
    meter_id: int | None
    since: int | None
    until: int | None


def _raw(column: Column[Any]) -> Any:
    return type_coerce(column, BigInteger)


_ENTRIES = select(
    entries.c.posting_id,
    _raw(entries.c.at),
    entries.c.kind,
    entries.c.user_id,
    entries.c.debit_account,
    entries.c.credit_account,
    entries.c.amount_micro,
    entries.c.instance_id,
    entries.c.meter_id,
    _raw(entries.c.since),
    _raw(entries.c.until),
)


def prices(connection: Connection) -> list[PriceRow]:
    """Every price there ever was, in the order they were set."""
    columns = [tariffs.c[name] for name in PriceRow._fields[:-1]]
    rows = connection.execute(select(*columns, _raw(tariffs.c.valid_from)).order_by(tariffs.c.id))
    return [PriceRow(*row) for row in rows]


def some_instances(connection: Connection, after: str) -> list[InstanceRow]:
    """The next instances after an id, in the order of ids; none when there are no more."""
    columns = [instances.c[name] for name in InstanceRow._fields[:-2]]
    rows = connection.execute(
        select(*columns, _raw(instances.c.term_ends_at), _raw(regions.c.seen_at))
        .outerjoin(regions, regions.c.id == instances.c.region_id)
        .where(instances.c.id > after)
        .order_by(instances.c.id)
        .limit(AT_ONCE)
    )
    return [InstanceRow(*row) for row in rows]


def events_of(connection: Connection, ids: Sequence[str]) -> Iterator[EventRow]:
    """Histories, each in its order."""
    statement = select(
        events.c.instance_id, _raw(events.c.at), events.c.event, events.c.from_state, events.c.to_state
    ).where(events.c.instance_id.in_(ids))
    for row in _stream(connection, statement.order_by(events.c.instance_id, events.c.seq)):
        yield EventRow(*row)


def meters_of(connection: Connection, ids: Sequence[str]) -> Iterator[MeterRow]:
    """Meters, each instance's in the order they were opened."""
    statement = select(
        meters.c.instance_id,
        meters.c.id,
        meters.c.kind,
        meters.c.user_id,
        _raw(meters.c.opened_at),
        _raw(meters.c.closed_at),
        _raw(meters.c.seen_until),
        meters.c.post_at.is_not(None),
    ).where(meters.c.instance_id.in_(ids))
    for row in _stream(connection, statement.order_by(meters.c.instance_id, meters.c.id)):
        yield MeterRow(*row)


def holds_of(connection: Connection, ids: Sequence[str]) -> Iterator[HoldRow]:
    """Holds, each instance's in the order they were made."""
    statement = select(
        holds.c.instance_id,
        holds.c.id,
        holds.c.user_id,
        holds.c.amount_micro,
        holds.c.parts,
        _raw(holds.c.held_at),
        _raw(holds.c.settle_at),
        holds.c.capture,
        _raw(holds.c.ended_at),
    ).where(holds.c.instance_id.in_(ids))
    for row in _stream(connection, statement.order_by(holds.c.instance_id, holds.c.held_at, holds.c.id)):
        yield HoldRow(*row)


def entries_of_instances(connection: Connection, ids: Sequence[str]) -> Iterator[EntryRow]:
    """Lines of the ledger, instance by instance, each in the order they were written."""
    statement = _ENTRIES.where(entries.c.instance_id.in_(ids))
    for row in _stream(connection, statement.order_by(entries.c.instance_id, entries.c.seq)):
        yield EntryRow(*row)


def some_users(connection: Connection, after: str) -> list[str]:
    """The next users after an id, in the order of ids."""
    return list(
        connection.execute(
            select(users.c.id).where(users.c.id > after).order_by(users.c.id).limit(AT_ONCE)
        ).scalars()
    )


def accounts_of(connection: Connection, user_id: str) -> list[AccountRow]:
    """Every account of a user."""
    rows = connection.execute(
        select(
            ledger_accounts.c.user_id,
            ledger_accounts.c.id,
            ledger_accounts.c.kind,
            ledger_accounts.c.amount_micro,
            _raw(ledger_accounts.c.expires_at),
        )
        .where(ledger_accounts.c.user_id == user_id)
        .order_by(ledger_accounts.c.id)
    )
    return [AccountRow(*row) for row in rows]


def entries_of_user(connection: Connection, user_id: str) -> Iterator[EntryRow]:
    """A user's lines of the ledger in the order they were written."""
    statement = _ENTRIES.where(entries.c.user_id == user_id).order_by(entries.c.seq)
    for row in _stream(connection, statement):
        yield EntryRow(*row)


def open_holds(connection: Connection, user_id: str) -> int:
    """What a user has set aside, by the holds."""
    mine = (holds.c.user_id == user_id, holds.c.ended_at.is_(None))
    return int(
        connection.execute(select(func.coalesce(func.sum(holds.c.amount_micro), 0)).where(*mine)).scalar_one()
    )


def of_nobody(connection: Connection, kinds: Sequence[str], limit: int) -> list[str]:
    """Postings of these kinds for no known instance; and any of no user, or that correct nothing known."""
    corrected = entries.alias()
    strange = (
        (entries.c.kind.in_(kinds) & ~exists().where(instances.c.id == entries.c.instance_id))
        | ~exists().where(users.c.id == entries.c.user_id)
        | (entries.c.corrects.is_not(None) & ~exists().where(corrected.c.posting_id == entries.c.corrects))
    )
    return list(
        connection.execute(select(entries.c.posting_id).where(strange).distinct().limit(limit)).scalars()
    )


def own_sums(connection: Connection) -> dict[str, int]:
    """What our own accounts come to, by account: what went in less what came out."""
    found: dict[str, int] = {}
    for column, sign in ((entries.c.credit_account, 1), (entries.c.debit_account, -1)):
        statement = (
            select(column, func.sum(entries.c.amount_micro)).where(column.like("own/%")).group_by(column)
        )
        for account, amount in connection.execute(statement):
            found[account] = found.get(account, 0) + sign * int(amount)
    return found


def _stream(connection: Connection, statement: Executable) -> Iterator[Any]:
    yield from connection.execute(statement, execution_options={"yield_per": ROWS_AT_ONCE})
