"""Holds: money set aside in the transaction that asks for a start, and settled once.

An open hold belongs to one instance. Who leaves the states in which an instance is to run asks for it to
be settled (``ask_to_settle``), in that transaction; it ends when all that the instance cost was posted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, exists, insert, or_, select, true, update

from tidemill.model.charging import Hold
from tidemill.model.offer import ChargeMode
from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import Instant, holds, instances, meters

RELEASED, CAPTURED = "released", "captured"

_HOLD = (holds.c.id, holds.c.instance_id, holds.c.user_id, holds.c.parts)
_SETTLE = Prepared(
    update(holds)
    .where(holds.c.instance_id == bindparam("of_instance"), holds.c.ended_at.is_(None), ~holds.c.capture)
    .values(settle_at=bindparam("when", type_=Instant))
)
_CAPTURE = Prepared(
    update(holds)
    .where(holds.c.instance_id == bindparam("of_instance"), holds.c.ended_at.is_(None), ~holds.c.capture)
    .values(settle_at=bindparam("when", type_=Instant), capture=true())
)
_OPEN = (holds.c.ended_at.is_(None), ~holds.c.capture)
_HOURLY = or_(*(instances.c.charge_mode == mode.value for mode in ChargeMode if mode.hourly))
_OF_INSTANCE = Prepared(select(*_HOLD).where(holds.c.instance_id == bindparam("of_instance"), *_OPEN))
_OF_USERS = Prepared(
    select(*_HOLD)
    .join(instances, instances.c.id == holds.c.instance_id)
    .where(among(holds.c.user_id, "ids"), *_OPEN, _HOURLY)
    .order_by(holds.c.settle_at.is_(None), holds.c.id)
)
_CAPTURED = Prepared(
    select(*_HOLD).where(
        holds.c.instance_id == bindparam("of_instance"), holds.c.ended_at.is_(None), holds.c.capture
    )
)
_UNPOSTED = exists().where(
    meters.c.instance_id == holds.c.instance_id,
    meters.c.closed_at.is_not(None),
    meters.c.post_at.is_not(None),
)
_TO_SETTLE = (holds.c.ended_at.is_(None), holds.c.settle_at <= bindparam("now", type_=Instant))
_FIRST = (
    select(*_HOLD, holds.c.capture)
    .where(*_TO_SETTLE, ~_UNPOSTED)
    .order_by(holds.c.settle_at, holds.c.id)
    .limit(bindparam("most"))
)
_DUE = Prepared(_FIRST)
_DUE_OF = Prepared(_FIRST.where(holds.c.user_id == bindparam("of_user")))
_PUT_OFF = Prepared(
    update(holds)
    .where(*_TO_SETTLE, holds.c.user_id == bindparam("of_user"))
    .values(settle_at=bindparam("again", type_=Instant))
)
_END = Prepared(
    update(holds)
    .where(holds.c.id == bindparam("hold_id"), holds.c.ended_at.is_(None))
    .values(ended_at=bindparam("when", type_=Instant), outcome=bindparam("how"))
)
_FOR_HOURS = Prepared(
    select(holds.c.parts)
    .join(instances, instances.c.id == holds.c.instance_id)
    .where(holds.c.user_id == bindparam("of_user"), holds.c.ended_at.is_(None), _HOURLY)
)
_WRITE = Prepared(insert(holds), columns=("id", "instance_id", "user_id", "amount_micro", "parts", "held_at"))


def _hold(row: Sequence[Any]) -> Hold:
    return Hold(row[0], row[1], row[2], tuple((account, amount) for account, amount in row[3]))


def write(connection: Connection, hold: Hold, now: datetime) -> None:
    """Write a new hold; its posting is the caller's. Raises IntegrityError when the instance has one."""
    _WRITE.run(
        connection,
        {
            "id": hold.id,
            "instance_id": hold.instance_id,
            "user_id": hold.user_id,
            "amount_micro": hold.amount,
            "parts": [list(part) for part in hold.parts],
            "held_at": now,
        },
    )


def keep(connection: Connection, instance_id: str) -> bool:
    """Use the hold of an instance again that was to be settled; False when it has none."""
    return _SETTLE.run(connection, {"of_instance": instance_id, "when": None}) == 1


def ask_to_settle(connection: Connection, instance_id: str, at: datetime) -> None:
    """Have the instance's hold released once everything was posted."""
    _SETTLE.run(connection, {"of_instance": instance_id, "when": at})


def ask_to_capture(connection: Connection, instance_id: str, at: datetime) -> bool:
    """Have the instance's hold spent on the term that began; False when it has none."""
    return _CAPTURE.run(connection, {"of_instance": instance_id, "when": at}) == 1


def of_instance(connection: Connection, instance_id: str) -> Hold | None:
    """The open hold of an instance."""
    row = _OF_INSTANCE.first(connection, {"of_instance": instance_id})
    return None if row is None else _hold(row)


def of_users(connection: Connection, user_ids: Collection[str]) -> list[Hold]:
    """Open holds of what is paid by the hour, those first that are to be settled."""
    return [_hold(row) for row in _OF_USERS.all(connection, {"ids": user_ids})]


def captured(connection: Connection, instance_id: str) -> Hold | None:
    """What the term that the instance is or was in is still to be paid with; None when it was paid."""
    row = _CAPTURED.first(connection, {"of_instance": instance_id})
    return None if row is None else _hold(row)


def due(
    connection: Connection, now: datetime, limit: int, user_id: str | None = None
) -> list[tuple[Hold, bool]]:
    """Holds to settle, with whether they are to be captured; not while a closed meter has more to post."""
    values = {"now": now, "most": limit}
    if user_id is None:
        rows = _DUE.all(connection, values)
    else:
        rows = _DUE_OF.all(connection, values | {"of_user": user_id})
    return [(_hold(row), bool(row[4])) for row in rows]


def put_off(connection: Connection, user_id: str, now: datetime, again: datetime) -> None:
    """Have the user's holds that are to be settled now be settled ``again`` at the earliest."""
    _PUT_OFF.run(connection, {"of_user": user_id, "now": now, "again": again})


def end(connection: Connection, hold_id: str, now: datetime, outcome: str) -> bool:
    """End an open hold; False when somebody did already."""
    return _END.run(connection, {"hold_id": hold_id, "when": now, "how": outcome}) == 1


def held_for_hours(connection: Connection, user_id: str) -> dict[str, int]:
    """What a user has set aside for instances that are paid by the hour, by the account it came from."""
    found: dict[str, int] = defaultdict(int)
    for (parts,) in _FOR_HOURS.all(connection, {"of_user": user_id}):
        for account_id, amount in parts:
            found[account_id] += amount
    return found


def parts_of(connection: Connection, user_ids: Collection[str]) -> dict[str, list[tuple[str, int]]]:
    """From which accounts everything came that users have set aside, by user."""
    found: dict[str, list[tuple[str, int]]] = {user_id: [] for user_id in user_ids}
    for user_id, parts in connection.execute(
        select(holds.c.user_id, holds.c.parts).where(
            holds.c.user_id.in_(sorted(found)), holds.c.ended_at.is_(None)
        )
    ):
        found[user_id] += [(account, amount) for account, amount in parts]
    return found
