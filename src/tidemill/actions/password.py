"""Change one's own password, which signs out everywhere else."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from tidemill.actions import passwords
from tidemill.actions.context import Context
from tidemill.actions.identify import require_login
from tidemill.actions.throttle import Throttle
from tidemill.model.account import Caller, User
from tidemill.model.errors import Conflict, Forbidden, Unauthenticated
from tidemill.store import accounts


async def change_password(
    context: Context, throttle: Throttle, caller: Caller, *, old: str, new: str, address: str
) -> str:
    """Replace the password, revoke all tokens, and return a new one for the caller.

    Raises Forbidden (the old password is wrong; an API key asks), TooManyAttempts, Conflict
    (it was changed at the same time).
    """
    require_login(caller)
    username = caller.user.username
    async with throttle.attempt(username, address) as attempt:
        found = await context.database.read(lambda connection: accounts.login_of(connection, username))
        stored = None if found is None else found.password_hash
        attempt.right = await asyncio.to_thread(passwords.matches, old, stored)
    if found is None or not attempt.right:
        raise Forbidden("The old password is wrong", code="wrongPassword")
    hashed = await asyncio.to_thread(passwords.hash_password, new)

    def work(connection: Connection) -> User:
        if not accounts.replace_hash(connection, found.user.id, found.password_hash, hashed):
            raise Conflict(
                "The password was changed at the same time; nothing was done", code="changedMeanwhile"
            )
        accounts.revoke_tokens(connection, found.user.id)
        user = accounts.by_id(connection, found.user.id)
        if user is None:
            raise Unauthenticated
        return user

    return context.tokens.issue(await context.database.write(work), context.clock.now())
