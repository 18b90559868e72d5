"""Spend caps, and what counts for them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, or_, select
from sqlalchemy.sql import ColumnElement

from tidemill.model.cap import HOUR, Cap, by_operator
from tidemill.model.instance import Instance
from tidemill.model.ledger import REVENUE, Cause
from tidemill.model.lifecycle import STATES, Wanted
from tidemill.store import tariffs
from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import entries, holds, instances, spend_caps

_TO_RUN = [state.value for state, row in STATES.items() if row.wanted is Wanted.RUNNING]
_HOURLY = ("perHour", "tidePerHour")
_CAP = select(spend_caps.c.subject, spend_caps.c.per, spend_caps.c.limit_micro, spend_caps.c.set_at).order_by(
    spend_caps.c.subject, spend_caps.c.per
)
_OF = Prepared(_CAP.where(among(spend_caps.c.subject, "ids")))
_ALL_OF = Prepared(
    _CAP.where(
        or_(
            spend_caps.c.subject == bindparam("of_user"),
            spend_caps.c.subject == bindparam("by_operator"),
            exists().where(
                instances.c.user_id == bindparam("of_user"), instances.c.api_key_id == spend_caps.c.subject
            ),
        )
    )
)


def of(connection: Connection, user_id: str, *key_ids: str | None) -> list[Cap]:
    """The caps that hold for a user, and for those of their keys that are named."""
    subjects = [user_id, by_operator(user_id), *(key_id for key_id in key_ids if key_id)]
    return [Cap(*row) for row in _OF.all(connection, {"ids": subjects})]


def all_of(connection: Connection, user_id: str) -> list[Cap]:
    """The caps of a user and of the keys that anything of theirs was launched with."""
    rows = _ALL_OF.all(connection, {"of_user": user_id, "by_operator": by_operator(user_id)})
    return [Cap(*row) for row in rows]


def over(
    connection: Connection, user_id: str, key_id: str | None, amount: int, month_began: datetime
) -> tuple[Cap, int] | None:
    """The cap of a user or their key that ``amount`` micro-units more would be over, and what it would be.

    What is to run by the hour is written down as such already; None where every cap allows it.
    """
    for cap in of(connection, user_id, key_id):
        if cap.per == HOUR:
            used = rate(connection, cap, user_id)
        else:
            used = spent(connection, cap, user_id, month_began) + held(connection, cap, user_id) + amount
        if used > cap.limit:
            return cap, used
    return None


def put(connection: Connection, cap: Cap) -> None:
    """Have this cap hold instead of what was before."""
    remove(connection, cap.subject, cap.per)
    connection.execute(
        insert(spend_caps),
        {"subject": cap.subject, "per": cap.per, "limit_micro": cap.limit, "set_at": cap.set_at},
    )


def remove(connection: Connection, subject: str, per: str) -> None:
    """Have no such cap."""
    connection.execute(delete(spend_caps).where(spend_caps.c.subject == subject, spend_caps.c.per == per))


def _whose(cap: Cap, user_id: str) -> ColumnElement[bool]:
    """The instances that count for a cap."""
    mine = instances.c.user_id == user_id
    if cap.subject in {user_id, by_operator(user_id)}:
        return mine
    return mine & (instances.c.api_key_id == cap.subject)


def rate(connection: Connection, cap: Cap, user_id: str) -> int:
    """Micro-units per hour of everything that is to run and is paid by the hour, with its data disk.

    In the dearest band of each, as with ``rate_of``.
    """
    disk = instances.c.disk_price_micro * instances.c.data_disk_gb
    rows = connection.execute(
        select(instances.c.tariff_id, func.count(), func.sum(disk))
        .where(_whose(cap, user_id), instances.c.state.in_(_TO_RUN), instances.c.charge_mode.in_(_HOURLY))
        .group_by(instances.c.tariff_id)
    ).all()
    prices = tariffs.by_ids(connection, {row[0] for row in rows if row[0] is not None})
    return sum(
        many * (prices[id].tariff.rate_most if id in prices else 0) + int(disks) for id, many, disks in rows
    )


def rate_of(connection: Connection, instance: Instance) -> int:
    """The most that one instance which is paid by the hour costs in an hour, in micro-units."""
    disk = instance.disk_price_micro * instance.data_disk_gb
    if instance.tariff_id is None:
        return disk
    return tariffs.by_ids(connection, [instance.tariff_id])[instance.tariff_id].tariff.rate_most + disk


def spent(connection: Connection, cap: Cap, user_id: str, since: datetime) -> int:
    """Micro-units that were charged since an instant; what was given back of it counts all the same."""
    rows = select(func.coalesce(func.sum(entries.c.amount_micro), 0)).where(
        entries.c.user_id == user_id,
        entries.c.credit_account == REVENUE,
        entries.c.kind.in_([Cause.CHARGE.value, Cause.TERM.value]),
        entries.c.at >= since,
    )
    if cap.subject not in {user_id, by_operator(user_id)}:
        rows = rows.where(entries.c.instance_id.in_(select(instances.c.id).where(_whose(cap, user_id))))
    return int(connection.execute(rows).scalar_one())


def held(connection: Connection, cap: Cap, user_id: str) -> int:
    """Micro-units that are set aside."""
    return int(
        connection.execute(
            select(func.coalesce(func.sum(holds.c.amount_micro), 0))
            .join(instances, instances.c.id == holds.c.instance_id)
            .where(holds.c.user_id == user_id, holds.c.ended_at.is_(None), _whose(cap, user_id))
        ).scalar_one()
    )


def running(connection: Connection, cap: Cap, user_id: str) -> list[str]:
    """Ids of what counts for a cap, is to run and is paid by the hour."""
    return list(
        connection.execute(
            select(instances.c.id)
            .where(_whose(cap, user_id), instances.c.state.in_(_TO_RUN), instances.c.charge_mode.in_(_HOURLY))
            .order_by(instances.c.created_at, instances.c.id)
        ).scalars()
    )
