"""Logout: every access token that the user was given is over, on every server."""

from __future__ import annotations

from tidemill.actions.context import Context
from tidemill.actions.identify import require_login
from tidemill.model.account import Caller
from tidemill.store import accounts


async def logout(context: Context, caller: Caller) -> None:
    """Revoke the user's tokens. Raises Forbidden for a caller with an API key."""
    require_login(caller)
    await context.database.write(lambda connection: accounts.revoke_tokens(connection, caller.user.id))
