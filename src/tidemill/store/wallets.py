"""When somebody's money is to be looked at, and what they were told of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, case, select, update

from tidemill.store.prepared import Prepared
from tidemill.store.schema import Instant, wallets

_WHEN = bindparam("when", type_=Instant)
_LOOK = Prepared(  # also where it is as early already: a look that is under way would write another
    update(wallets)
    .where(wallets.c.user_id == bindparam("of_user"))
    .values(look_at=case((wallets.c.look_at < _WHEN, wallets.c.look_at), else_=_WHEN))
)
_WALLET = select(wallets.c.user_id, wallets.c.told_hours, wallets.c.monthly_credit_micro)
_DUE = Prepared(
    _WALLET.where(wallets.c.look_at <= bindparam("now", type_=Instant))
    .order_by(wallets.c.look_at, wallets.c.user_id)
    .limit(bindparam("most"))
)
_OF = Prepared(_WALLET.where(wallets.c.user_id == bindparam("of_user")).with_for_update())
_LOOKED = Prepared(
    update(wallets)
    .where(wallets.c.user_id == bindparam("of_user"))
    .values(
        look_at=bindparam("next", type_=Instant),
        told_hours=bindparam("told"),
    )
)


@dataclass(frozen=True, slots=True)
class Wallet:
    """What somebody was told of their money.

    ``told_hours`` is the last notice, in hours left; ``monthly_credit`` in micro-units.
    """

    user_id: str
    told_hours: int | None
    monthly_credit: int


def look_at(connection: Connection, user_id: str, when: datetime) -> None:
    """Have the user's money looked at by ``when``."""
    _LOOK.run(connection, {"of_user": user_id, "when": when})


def due(connection: Connection, now: datetime, limit: int) -> list[Wallet]:
    """Wallets to look at now."""
    return [Wallet(*row) for row in _DUE.all(connection, {"now": now, "most": limit})]


def of(connection: Connection, user_id: str) -> Wallet | None:
    """One to look at: who asks for a look meanwhile waits until this one is written down, and is heard."""
    row = _OF.first(connection, {"of_user": user_id})
    return None if row is None else Wallet(*row)


def set_monthly_credit(connection: Connection, user_id: str, amount: int) -> None:
    """What the user is given at the beginning of each month, in micro-units; 0 for nothing."""
    connection.execute(
        update(wallets).where(wallets.c.user_id == user_id).values(monthly_credit_micro=amount)
    )


def monthly_credits(connection: Connection, user_ids: Collection[str]) -> dict[str, int]:
    """The same, by user."""
    rows = connection.execute(
        select(wallets.c.user_id, wallets.c.monthly_credit_micro).where(
            wallets.c.user_id.in_(sorted(user_ids))
        )
    )
    return {row[0]: row[1] for row in rows}


def looked(
    connection: Connection,
    user_id: str,
    *,
    next_look: datetime | None,
    told_hours: int | None,
) -> None:
    """Write down what was found, and when to look again; None for when something changes."""
    _LOOKED.run(connection, {"of_user": user_id, "next": next_look, "told": told_hours})
