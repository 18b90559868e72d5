"""All users, with what they own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.model.account import User
from tidemill.model.funds import Funds, funds_of
from tidemill.store import accounts, holds, ledger, wallets


@dataclass(frozen=True, slots=True)
class Customer:
    """``monthly_credit`` in micro-units."""

    user: User
    funds: Funds
    monthly_credit: int


async def list_users(
    context: Context,
    *,
    offset: int,
    limit: int,
    username: str | None,
    since: datetime | None,
    until: datetime | None,
) -> tuple[list[Customer], int]:
    """One page of the users made in [since, until), by name, and how many there are in all pages."""
    now = context.clock.now()

    def work(connection: Connection) -> tuple[list[Customer], int]:
        found, total = accounts.page_of_users(
            connection, offset=offset, limit=limit, username=username, since=since, until=until
        )
        ids = [user.id for user in found]
        owned, held = ledger.accounts_of(connection, ids), holds.parts_of(connection, ids)
        monthly = wallets.monthly_credits(connection, ids)
        return [
            Customer(user, funds_of(user.id, owned[user.id], held[user.id], now), monthly.get(user.id, 0))
            for user in found
        ], total

    return await context.database.read_much(work)
