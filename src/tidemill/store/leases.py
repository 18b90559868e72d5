"""Who works on which instance: leases that a server takes, gives back, or lets run out."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Update, bindparam, case, or_, select, update

from tidemill.model.instance import Instance
from tidemill.store.instances import COLUMNS, from_row
from tidemill.store.schema import Instant, instances

_UNCLAIMED = or_(
    instances.c.lease_until.is_(None),
    instances.c.lease_until <= bindparam("now", type_=Instant),
    instances.c.lease_until > bindparam("beyond", type_=Instant),
)
_HERE = instances.c.region_id == bindparam("here")
_DUE = (
    select(instances.c.id)
    .where(instances.c.due_at <= bindparam("now", type_=Instant), _UNCLAIMED, _HERE)
    .order_by(instances.c.due_at)
    .limit(bindparam("most"))
)
_NAMED = (
    select(instances.c.id)
    .where(instances.c.id.in_(bindparam("ids", expanding=True)), _UNCLAIMED, _HERE)
    .limit(bindparam("most"))
)
_TAKE, _TAKE_NAMED = (
    update(instances)
    .where(instances.c.id.in_(chosen), _UNCLAIMED)
    .values(lease_owner=bindparam("owner"), lease_until=bindparam("until", type_=Instant))
    .returning(*(instances.c[name] for name in COLUMNS))
    for chosen in (_DUE, _NAMED)
)
_SETTLE = (
    update(instances)
    .where(instances.c.id == bindparam("settled_id"), instances.c.lease_owner == bindparam("owner"))
    .values(
        lease_owner=None,
        lease_until=None,
        due_at=case(
            (instances.c.version == bindparam("seen_version"), bindparam("next_due", type_=Instant)),
            else_=instances.c.due_at,
        ),
    )
    .returning(instances.c.version)
)


def claim(
    connection: Connection,
    *,
    owner: str,
    now: datetime,
    until: datetime,
    beyond: datetime,
    region_id: str,
    ids: Collection[str],
    limit: int,
) -> list[Instance]:
    """Take a lease on instances that are due, or named in ``ids``, and that nobody else works on.

    A lease that ends after ``beyond``, which no server's clock can have meant, is from before the
    clock was set back, and over.
    """
    asked = {"owner": owner, "now": now, "until": until, "beyond": beyond, "here": region_id}
    claimed = _take(connection, _TAKE, asked | {"most": limit})
    if ids and len(claimed) < limit:  # by themselves: an OR of both would read the whole table
        claimed += _take(connection, _TAKE_NAMED, asked | {"most": limit - len(claimed), "ids": list(ids)})
    return claimed


def _take(connection: Connection, statement: Update, asked: dict[str, Any]) -> list[Instance]:
    return [from_row(row) for row in connection.execute(statement, asked).mappings()]


def settle(
    connection: Connection, instance_id: str, owner: str, version: int, due_at: datetime | None
) -> bool:
    """Give the lease back and say when to look again.

    When somebody changed the row meanwhile (its version is not ``version``), their due time
    stands, so that what they want is looked at, and the answer is False.
    """
    now_at = connection.execute(
        _SETTLE, {"settled_id": instance_id, "owner": owner, "seen_version": version, "next_due": due_at}
    ).scalar()
    return now_at == version


def let_go(connection: Connection, owner: str) -> None:
    """Give back every lease of a server that stops."""
    connection.execute(
        update(instances).where(instances.c.lease_owner == owner).values(lease_owner=None, lease_until=None)
    )
