"""Who works on which instance: leases that a server takes and gives back, and that end with the server."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, case, or_, select, update

from tidemill.model.instance import Instance
from tidemill.store.instances import COLUMNS, readable
from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import Instant, instances

_FREE = instances.c.leased_to.is_(None)
_HERE = instances.c.region_id == bindparam("here")
# Rows that another server is about to take are passed over (PostgreSQL), not waited for.
_DUE = (
    select(instances.c.id)
    .where(instances.c.due_at <= bindparam("now", type_=Instant), _FREE, _HERE)
    .order_by(instances.c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
    .cte("chosen")
)
_NAMED = (
    select(instances.c.id)
    .where(among(instances.c.id, "ids"), _FREE, _HERE)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
    .cte("chosen")
)
_TAKE_DUE, _TAKE_NAMED = (
    Prepared(
        update(instances)
        .where(instances.c.id.in_(select(chosen.c.id)), _FREE)
        .values(leased_to=bindparam("owner"))
        .returning(*(instances.c[name] for name in COLUMNS))
    )
    for chosen in (_DUE, _NAMED)
)
_NEXT_DUE = bindparam("next_due", type_=Instant)
_IS_SETTLED = or_(
    instances.c.version == bindparam("seen_version"),
    instances.c.due_at.is_(None),
    instances.c.due_at > _NEXT_DUE,
)
_SETTLE = Prepared(
    update(instances)
    .where(instances.c.id == bindparam("settled_id"), instances.c.leased_to == bindparam("owner"))
    .values(leased_to=None, due_at=case((_IS_SETTLED, _NEXT_DUE), else_=instances.c.due_at))
    .returning(instances.c.version)
)


_SETTLE_ALL_BUT = Prepared(
    update(instances)
    .where(
        instances.c.leased_to == bindparam("owner"),
        _HERE,
        ~among(instances.c.id, "ids"),
    )
    .values(leased_to=None, due_at=bindparam("next_due", type_=Instant))
)


def claim(
    connection: Connection, *, owner: str, now: datetime, region_id: str, ids: Collection[str], limit: int
) -> list[Instance]:
    """Take a lease on instances that are due, or named in ``ids``, and that nobody else works on.

    Raises IntegrityError when ``owner`` is no server that is there (any more).
    """
    asked = {"owner": owner, "now": now, "here": region_id}
    claimed = _readable(connection, owner, _TAKE_DUE.all(connection, asked | {"most": limit}))
    if ids and len(claimed) < limit:  # by themselves: an OR of both would read the whole table
        named = asked | {"most": limit - len(claimed), "ids": ids}
        claimed += _readable(connection, owner, _TAKE_NAMED.all(connection, named))
    return claimed


def _readable(connection: Connection, owner: str, rows: Sequence[Sequence[Any]]) -> list[Instance]:
    """What was claimed and can be read; the rest is given back, and nobody is to look at it again."""
    found = readable(rows)
    if len(found) < len(rows):
        ids = {row[COLUMNS.index("id")] for row in rows} - {instance.id for instance in found}
        connection.execute(
            update(instances)
            .where(instances.c.id.in_(sorted(ids)), instances.c.leased_to == owner)
            .values(leased_to=None, due_at=None)
        )
    return found


def settle(
    connection: Connection, instance_id: str, owner: str, version: int, due_at: datetime | None
) -> bool:
    """Give the lease back and say when to look again.

    When somebody changed the row meanwhile (its version is not ``version``), the answer is False, and
    their due time stands, so that what they want is looked at; but not a later one or none, which may be
    older than this: not every change of a row says when it is due.
    """
    settled = _SETTLE.first(
        connection,
        {"settled_id": instance_id, "owner": owner, "seen_version": version, "next_due": due_at},
    )
    return settled is not None and settled[0] == version


def settle_all_but(
    connection: Connection, region_id: str, owner: str, ids: Collection[str], due_at: datetime
) -> None:
    """Give back every lease that ``owner`` has in the region and that is not in ``ids``."""
    _SETTLE_ALL_BUT.run(connection, {"owner": owner, "here": region_id, "ids": ids, "next_due": due_at})
