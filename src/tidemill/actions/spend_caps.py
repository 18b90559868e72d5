"""Spend caps: what somebody lets their account, or one of their keys, cost at most."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.identify import require_login
from tidemill.actions.operator import find_user
from tidemill.model.account import Caller
from tidemill.model.cap import Cap, by_operator
from tidemill.model.errors import NotFound
from tidemill.store import accounts, caps, wallets


async def set_own_cap(
    context: Context, caller: Caller, *, per: str, limit: int | None, key_id: str
) -> list[Cap]:
    """Cap the caller's account, or with ``key_id`` what that key launches; None for ``limit`` lifts the cap.

    In micro-units per hour or month. Returns the caps that hold then. Raises NotFound (no such key of
    theirs), Forbidden when an API key asks, which would else lift its own.
    """
    require_login(caller)
    user_id, now = caller.user.id, context.clock.now()

    def work(connection: Connection) -> list[Cap]:
        if key_id and key_id not in _keys(connection, user_id):
            raise NotFound("api key not found", code="apiKeyNotFound")
        return _put(connection, user_id, key_id or user_id, per, limit, now)

    return await context.database.write(work)


async def set_users_cap(
    context: Context, *, user_id: str, username: str, per: str, limit: int | None
) -> tuple[str, list[Cap]]:
    """The operator's cap on a user, which the user cannot lift; their id and all caps. Raises NotFound."""
    now = context.clock.now()

    def work(connection: Connection) -> tuple[str, list[Cap]]:
        user = find_user(connection, user_id, username)
        return user.id, _put(connection, user.id, by_operator(user.id), per, limit, now)

    return await context.database.write(work)


async def list_caps(context: Context, caller: Caller) -> list[Cap]:
    """The caps that hold for the caller and for their keys."""

    def work(connection: Connection) -> list[Cap]:
        return _all(connection, caller.user.id)

    return await context.database.read(work)


def _put(
    connection: Connection, user_id: str, subject: str, per: str, limit: int | None, now: datetime
) -> list[Cap]:
    if limit is None:
        caps.remove(connection, subject, per)
    else:
        caps.put(connection, Cap(subject, per, limit, now))
    wallets.look_at(connection, user_id, now)
    return _all(connection, user_id)


def _all(connection: Connection, user_id: str) -> list[Cap]:
    return caps.of(connection, user_id, *sorted(_keys(connection, user_id)))


def _keys(connection: Connection, user_id: str) -> set[str]:
    """The user's keys, and deleted ones with a cap that holds for what was launched with them."""
    capped = {cap.subject for cap in caps.all_of(connection, user_id) if not cap.is_operators}
    return (capped | {key.id for key in accounts.api_keys(connection, user_id)}) - {user_id}
