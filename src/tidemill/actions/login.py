"""Login: user name and password for an access token."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from tidemill.actions import passwords
from tidemill.actions.context import Context
from tidemill.actions.throttle import Throttle
from tidemill.model.errors import TooManyAttempts, Unauthenticated
from tidemill.store import accounts


async def login(context: Context, throttle: Throttle, *, username: str, password: str, address: str) -> str:
    """A new access token.

    ``address`` is the client's. Raises Unauthenticated (the same for an unknown user and a wrong
    password, after the same time), TooManyAttempts.
    """
    try:
        async with throttle.attempt(username, address) as attempt:
            found = await context.database.read(lambda connection: accounts.login_of(connection, username))
            stored = None if found is None else found.password_hash
            attempt.right = await asyncio.to_thread(passwords.matches, password, stored)
    except TooManyAttempts:
        context.metrics.login_failures.add("refused")
        raise
    if found is None or not attempt.right:
        context.metrics.login_failures.add("wrongPassword")
        raise Unauthenticated("Wrong user name or password", code="wrongPassword")
    if passwords.outdated(found.password_hash):
        await _hash_anew(context, found, password)
    return context.tokens.issue(found.user, context.clock.now())


async def _hash_anew(context: Context, found: accounts.Login, password: str) -> None:
    """Keep the password under today's costs."""
    new = await asyncio.to_thread(passwords.hash_password, password)

    def work(connection: Connection) -> None:
        accounts.replace_hash(connection, found.user.id, found.password_hash, new)

    await context.database.write(work)
