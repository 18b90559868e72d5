"""API keys: shown once, stored hashed, with a name, an expiry and a scope."""

from __future__ import annotations

import secrets
from datetime import datetime
from uuid import uuid4

from tidemill.actions.context import Context
from tidemill.actions.identify import API_KEY_MARK, hash_of, require_login
from tidemill.model.account import ApiKey, Caller, Scope
from tidemill.model.errors import Invalid, NotFound
from tidemill.store import accounts

KEY_BYTES = 32
HINT_CHARACTERS = 7


async def create_api_key(
    context: Context, caller: Caller, *, name: str, scope: Scope, expires_at: datetime | None
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is in nobody's hands but the caller's from here on.

    Raises Invalid (it would be expired at once), Forbidden (too many; an API key asks).
    """
    require_login(caller)
    now = context.clock.now()
    if expires_at is not None and expires_at <= now:
        raise Invalid('field "expiresAt" must be in the future', code="invalidField")
    secret = API_KEY_MARK + secrets.token_urlsafe(KEY_BYTES)
    key = ApiKey(str(uuid4()), name, secret[:HINT_CHARACTERS] + "...", scope, now, expires_at)
    await context.database.write(
        lambda connection: accounts.add_api_key(connection, caller.user.id, key, hash_of(secret))
    )
    return key, secret


async def list_api_keys(context: Context, caller: Caller) -> list[ApiKey]:
    """The caller's keys, oldest first. Raises Forbidden when an API key asks."""
    require_login(caller)
    return await context.database.read(lambda connection: accounts.api_keys(connection, caller.user.id))


async def delete_api_key(context: Context, caller: Caller, key_id: str) -> None:
    """Make a key worthless, at once. Raises NotFound, Forbidden when an API key asks."""
    require_login(caller)
    if not await context.database.write(
        lambda connection: accounts.delete_api_key(connection, caller.user.id, key_id)
    ):
        raise NotFound("api key not found", code="apiKeyNotFound")
