"""Somebody is given credit for each month, which is good until the month ends."""

from __future__ import annotations

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.operator import begin, find_user
from tidemill.model.account import User
from tidemill.store import wallets


async def monthly_credit(context: Context, *, user_id: str, username: str, amount: int) -> User:
    """Have a user be given ``amount`` micro-units each month, from this one on; 0 for no more.

    What was given for this month already stays as it is. Raises NotFound.
    """
    now = context.clock.now()

    def work(connection: Connection) -> User:
        user = find_user(connection, user_id, username)
        begin(connection, user, now)
        wallets.set_monthly_credit(connection, user.id, amount)
        wallets.look_at(connection, user.id, now)
        return user

    return await context.database.write(work)
