"""Somebody paid in, or is paid back."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.operator import begin, find_user, id_used, known, post
from tidemill.model.account import User
from tidemill.model.errors import Conflict
from tidemill.model.ledger import Posting, balance_of, payment, payout
from tidemill.model.money import shown
from tidemill.store import ledger, postings


async def credit(
    context: Context,
    *,
    user_id: str,
    username: str,
    amount: int,
    id: str,
    memo: str,
) -> Posting:
    """Add ``amount`` micro-units to a user's balance, or take them out where it is below zero.

    The same ``id`` again adds nothing. Raises NotFound, Conflict (there is not so much to pay back; the id
    was used for another amount).
    """
    now = context.clock.now()

    def work(connection: Connection) -> Posting:
        user = find_user(connection, user_id, username)
        return credited(connection, user, amount, id=id, memo=memo, now=now)

    return await context.database.write(work)


def credited(
    connection: Connection, user: User, amount: int, *, id: str, memo: str, now: datetime
) -> Posting:
    """The same inside a transaction."""
    begin(connection, user, now)
    of_user = f"{user.id}:{id}"
    into, out = payment(of_user, user.id, amount, now, memo), payout(of_user, user.id, -amount, now, memo)
    posting, other = (into, out) if amount > 0 else (out, into)
    earlier = known(connection, posting)
    if earlier is not None:
        return earlier
    if postings.by_ids(connection, [other.id]):
        raise id_used()
    account = ledger.account(connection, balance_of(user.id))
    there = 0 if account is None else account.amount
    if there + amount < 0:
        raise Conflict(
            f"{shown(-amount)} cannot be paid back to {user.username}: the balance that nothing is held of "
            f"is {shown(there)}",
            code="notEnoughMoney",
        )
    return post(connection, posting)
