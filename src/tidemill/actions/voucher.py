"""Somebody is given a voucher."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.operator import begin, find_user, id_used, known, post
from tidemill.model.errors import Invalid
from tidemill.model.ledger import Account, AccountKind, Cause, Posting, gift
from tidemill.store import ledger


async def voucher(
    context: Context,
    *,
    user_id: str,
    username: str,
    amount: int,
    expires_at: datetime | None,
    name: str,
    id: str,
    memo: str,
) -> Posting:
    """Give a user ``amount`` micro-units that are spent first, and until ``expires_at``; None for ever.

    The same ``id`` again adds nothing. Raises NotFound, Invalid (expired already), Conflict (the id was used
    for another voucher).
    """
    now = context.clock.now()

    def work(connection: Connection) -> Posting:
        user = find_user(connection, user_id, username)
        begin(connection, user, now)
        account = Account(f"{user.id}/voucher/{id}", user.id, AccountKind.VOUCHER, 0, expires_at, name)
        posting = gift(account, Cause.VOUCHER, amount, now, memo)
        earlier = known(connection, posting)
        if earlier is not None:
            there = ledger.account(connection, account.id)
            if there is None or there.expires_at != expires_at:
                raise id_used()
            return earlier
        if expires_at is not None and expires_at <= now:
            raise Invalid('field "expiresAt" must be later than now', code="invalidField")
        ledger.open_account(connection, account, now)
        return post(connection, posting)

    return await context.database.write(work)
