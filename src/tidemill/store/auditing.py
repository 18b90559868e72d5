"""What the audit reads: rows as they were written, in batches, so that memory does not grow with them.

Instants are whole microseconds since 1970, amounts whole micro-units. Nothing of what the metering keeps for
itself (``posted_until``, ``posted_micro``, ``posted_rest``) is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Connection, bindparam, exists, func, select, type_coerce

from tidemill.store.prepared import Prepared, among
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


_PRICES = Prepared(
    select(*(tariffs.c[name] for name in PriceRow._fields[:-1]), _raw(tariffs.c.valid_from)).order_by(
        tariffs.c.id
    )
)
_INSTANCES = Prepared(
    select(
        *(instances.c[name] for name in InstanceRow._fields[:-2]),
        _raw(instances.c.term_ends_at),
        _raw(regions.c.seen_at),
    )
    .outerjoin(regions, regions.c.id == instances.c.region_id)
    .where(instances.c.id > bindparam("after"))
    .order_by(instances.c.id)
    .limit(AT_ONCE)
)
_EVENTS = Prepared(
    select(events.c.instance_id, _raw(events.c.at), events.c.event, events.c.from_state, events.c.to_state)
    .where(among(events.c.instance_id, "ids"))
    .order_by(events.c.instance_id, events.c.seq)
)
_METERS = Prepared(
    select(
        meters.c.instance_id,
        meters.c.id,
        meters.c.kind,
        meters.c.user_id,
        _raw(meters.c.opened_at),
        _raw(meters.c.closed_at),
        _raw(meters.c.seen_until),
        meters.c.post_at.is_not(None),
    )
    .where(among(meters.c.instance_id, "ids"))
    .order_by(meters.c.instance_id, meters.c.id)
)
_HOLDS = Prepared(
    select(
        holds.c.instance_id,
        holds.c.id,
        holds.c.user_id,
        holds.c.amount_micro,
        holds.c.parts,
        _raw(holds.c.held_at),
        _raw(holds.c.settle_at),
        holds.c.capture,
        _raw(holds.c.ended_at),
    )
    .where(among(holds.c.instance_id, "ids"))
    .order_by(holds.c.instance_id, holds.c.held_at, holds.c.id)
)
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
_OF_INSTANCES = Prepared(
    _ENTRIES.where(among(entries.c.instance_id, "ids")).order_by(entries.c.instance_id, entries.c.seq)
)
_OF_USER = Prepared(_ENTRIES.where(entries.c.user_id == bindparam("of_user")).order_by(entries.c.seq))
_USERS = Prepared(
    select(users.c.id).where(users.c.id > bindparam("after")).order_by(users.c.id).limit(AT_ONCE)
)
_ACCOUNTS = Prepared(
    select(
        ledger_accounts.c.user_id,
        ledger_accounts.c.id,
        ledger_accounts.c.kind,
        ledger_accounts.c.amount_micro,
        _raw(ledger_accounts.c.expires_at),
    )
    .where(ledger_accounts.c.user_id == bindparam("of_user"))
    .order_by(ledger_accounts.c.id)
)
_OPEN_HOLDS = Prepared(
    select(func.coalesce(func.sum(holds.c.amount_micro), 0)).where(
        holds.c.user_id == bindparam("of_user"), holds.c.ended_at.is_(None)
    )
)
_CORRECTED = entries.alias()
_OF_NOBODY = Prepared(
    select(entries.c.posting_id)
    .where(
        (among(entries.c.kind, "kinds") & ~exists().where(instances.c.id == entries.c.instance_id))
        | ~exists().where(users.c.id == entries.c.user_id)
        | (entries.c.corrects.is_not(None) & ~exists().where(_CORRECTED.c.posting_id == entries.c.corrects))
    )
    .distinct()
    .limit(bindparam("most"))
)
_OWN_SUMS = tuple(
    (
        sign,
        Prepared(
            select(column, func.sum(entries.c.amount_micro)).where(column.like("own/%")).group_by(column)
        ),
    )
    for column, sign in ((entries.c.credit_account, 1), (entries.c.debit_account, -1))
)


def prices(connection: Connection) -> list[PriceRow]:
    """Every price there ever was, in the order they were set."""
    return [PriceRow(*row) for row in _PRICES.all(connection, {})]


def some_instances(connection: Connection, after: str) -> list[InstanceRow]:
    """The next instances after an id, in the order of ids; none when there are no more."""
    return [InstanceRow(*row) for row in _INSTANCES.all(connection, {"after": after})]


def events_of(connection: Connection, ids: Sequence[str]) -> Iterator[EventRow]:
    """Histories, each in its order."""
    return starmap(EventRow, _EVENTS.stream(connection, {"ids": ids}, ROWS_AT_ONCE))


def meters_of(connection: Connection, ids: Sequence[str]) -> Iterator[MeterRow]:
    """Meters, each instance's in the order they were opened."""
    return starmap(MeterRow, _METERS.stream(connection, {"ids": ids}, ROWS_AT_ONCE))


def holds_of(connection: Connection, ids: Sequence[str]) -> Iterator[HoldRow]:
    """Holds, each instance's in the order they were made."""
    return starmap(HoldRow, _HOLDS.stream(connection, {"ids": ids}, ROWS_AT_ONCE))


def entries_of_instances(connection: Connection, ids: Sequence[str]) -> Iterator[EntryRow]:
    """Lines of the ledger, instance by instance, each in the order they were written."""
    return starmap(EntryRow, _OF_INSTANCES.stream(connection, {"ids": ids}, ROWS_AT_ONCE))


def some_users(connection: Connection, after: str) -> list[str]:
    """The next users after an id, in the order of ids."""
    return [row[0] for row in _USERS.all(connection, {"after": after})]


def accounts_of(connection: Connection, user_id: str) -> list[AccountRow]:
    """Every account of a user."""
    return [AccountRow(*row) for row in _ACCOUNTS.all(connection, {"of_user": user_id})]


def entries_of_user(connection: Connection, user_id: str) -> Iterator[EntryRow]:
    """A user's lines of the ledger in the order they were written."""
    return starmap(EntryRow, _OF_USER.stream(connection, {"of_user": user_id}, ROWS_AT_ONCE))


def open_holds(connection: Connection, user_id: str) -> int:
    """What a user has set aside, by the holds."""
    return int(_OPEN_HOLDS.all(connection, {"of_user": user_id})[0][0])


def of_nobody(connection: Connection, kinds: Sequence[str], limit: int) -> list[str]:
    """Postings of these kinds for no known instance; and any of no user, or that correct nothing known."""
    return [row[0] for row in _OF_NOBODY.all(connection, {"kinds": kinds, "most": limit})]


def own_sums(connection: Connection) -> dict[str, int]:
    """What our own accounts come to, by account: what went in less what came out."""
    found: dict[str, int] = {}
    for sign, sums in _OWN_SUMS:
        for account, amount in sums.all(connection, {}):
            found[account] = found.get(account, 0) + sign * int(amount)
    return found
