"""The ledger as its owner reads it: posting by posting, and what they come to.

Every posting has a line 0, by which postings are counted and put in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, func, select
from sqlalchemy.sql import ColumnElement

from tidemill.model.ledger import OWN, REVENUE, Cause, Line, Posting
from tidemill.store.schema import entries

_COLUMNS = (
    entries.c.posting_id,
    entries.c.at,
    entries.c.kind,
    entries.c.user_id,
    entries.c.instance_id,
    entries.c.meter_id,
    entries.c.since,
    entries.c.until,
    entries.c.corrects,
    entries.c.memo,
    entries.c.debit_account,
    entries.c.credit_account,
    entries.c.amount_micro,
)
_GAINED = case((entries.c.credit_account.in_(list(OWN)), 0), else_=entries.c.amount_micro)
_LOST = case((entries.c.debit_account.in_(list(OWN)), 0), else_=entries.c.amount_micro)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which postings of a user: written in [since, until), for one instance, of some causes but others."""

    user_id: str
    since: datetime | None = None
    until: datetime | None = None
    instance_id: str | None = None
    causes: Collection[Cause] = ()
    but: Collection[Cause] = ()

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        found = [entries.c.user_id == self.user_id]
        if self.since is not None:
            found.append(entries.c.at >= self.since)
        if self.until is not None:
            found.append(entries.c.at < self.until)
        if self.instance_id is not None:
            found.append(entries.c.instance_id == self.instance_id)
        if self.causes:
            found.append(entries.c.kind.in_([cause.value for cause in self.causes]))
        if self.but:
            found.append(entries.c.kind.not_in([cause.value for cause in self.but]))
        return found


def count(connection: Connection, chosen: Chosen) -> int:
    """How many postings there are."""
    first = select(func.count()).select_from(entries).where(entries.c.line == 0, *chosen.conditions)
    return connection.execute(first).scalar_one()


def page(
    connection: Connection,
    chosen: Chosen,
    *,
    offset: int = 0,
    limit: int,
    after: int = 0,
    newest_first: bool = False,
) -> tuple[list[Posting], int]:
    """Postings in the order they were written, and the place of the last: where to go on ``after``."""
    statement = select(entries.c.seq, entries.c.posting_id).where(
        entries.c.line == 0, entries.c.seq > after, *chosen.conditions
    )
    order = entries.c.seq.desc() if newest_first else entries.c.seq
    firsts = connection.execute(statement.order_by(order).offset(offset).limit(limit)).all()
    found = by_ids(connection, [row.posting_id for row in firsts])
    return [found[row.posting_id] for row in firsts], firsts[-1].seq if firsts else after


def by_ids(connection: Connection, ids: Sequence[str]) -> dict[str, Posting]:
    """Postings by their ids; of anybody."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(
        select(*_COLUMNS)
        .where(entries.c.posting_id.in_(list(ids)))
        .order_by(entries.c.posting_id, entries.c.line)
    ):
        found[row.posting_id].append(row)
    return {id: _posting(rows) for id, rows in found.items()}


def correcting(connection: Connection, posting: Posting) -> list[Posting]:
    """Postings of the same user that name this one, oldest first."""
    rows = connection.execute(
        select(entries.c.posting_id)
        .where(entries.c.user_id == posting.user_id, entries.c.corrects == posting.id, entries.c.line == 0)
        .order_by(entries.c.seq)
    ).scalars()
    ids = list(rows)
    found = by_ids(connection, ids)
    return [found[id] for id in ids]


def sums(connection: Connection, chosen: Chosen) -> dict[Cause, int]:
    """By how much postings changed what their user owns, in micro-units, by cause."""
    changed = func.coalesce(func.sum(_GAINED), 0) - func.coalesce(func.sum(_LOST), 0)
    rows = connection.execute(
        select(entries.c.kind, changed).where(*chosen.conditions).group_by(entries.c.kind)
    )
    return {Cause(row[0]): int(row[1]) for row in rows}


def costs(
    connection: Connection,
    user_id: str,
    instance_ids: Collection[str],
    since: datetime | None = None,
    until: datetime | None = None,
) -> dict[str, tuple[int, int]]:
    """What was charged for each instance between two instants, and what was given back; micro-units."""
    charged = func.sum(case((entries.c.credit_account == REVENUE, entries.c.amount_micro), else_=0))
    returned = func.sum(case((entries.c.debit_account == REVENUE, entries.c.amount_micro), else_=0))
    rows = connection.execute(
        select(entries.c.instance_id, charged, returned)
        .where(*Chosen(user_id, since, until).conditions, entries.c.instance_id.in_(list(instance_ids)))
        .group_by(entries.c.instance_id)
    )
    return {row[0]: (int(row[1]), int(row[2])) for row in rows}


def _posting(rows: Sequence[Any]) -> Posting:
    first = rows[0]
    return Posting(
        id=first.posting_id,
        at=first.at,
        cause=Cause(first.kind),
        user_id=first.user_id,
        lines=tuple(Line(row.debit_account, row.credit_account, row.amount_micro) for row in rows),
        instance_id=first.instance_id,
        meter_id=first.meter_id,
        since=first.since,
        until=first.until,
        corrects=first.corrects,
        memo=first.memo,
    )
