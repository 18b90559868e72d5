"""What somebody owns, and for how long it lasts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.model.account import Caller
from tidemill.model.funds import Funds, funds_of
from tidemill.store import holds, ledger, metering


@dataclass(frozen=True, slots=True)
class Balance:
    """``hours_left``: for how long it lasts at least, at the highest rates of what runs; None for nothing."""

    funds: Funds
    hours_left: float | None


async def balance(context: Context, caller: Caller) -> Balance:
    """What the caller owns."""
    now = context.clock.now()
    return await context.database.read(lambda connection: _balance(connection, caller.user.id, now))


def _balance(connection: Connection, user_id: str, now: datetime) -> Balance:
    accounts = ledger.accounts_of(connection, [user_id])[user_id]
    funds = funds_of(user_id, accounts, holds.parts_of(connection, [user_id])[user_id], now)
    rate, unposted = metering.accruing(connection, user_id, now)
    if not rate:
        return Balance(funds, None)
    held = holds.held_for_hours(connection, user_id)
    good = sum(held[each.id] for each in ledger.by_ids(connection, held) if each.is_good(now))
    left = funds.available + good - unposted
    return Balance(funds, max(0.0, left / rate))
