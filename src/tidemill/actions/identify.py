"""Who is calling: from a token or an API key to a Caller."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.model.account import ApiKey, Caller, Scope, User
from tidemill.model.errors import Forbidden, Unauthenticated
from tidemill.store import accounts

API_KEY_MARK = "tm_"
API_KEY_CHARACTERS_MOST = 255


async def by_token(context: Context, token: str) -> Caller:
    """The user of an access token. Raises Unauthenticated: bad, expired, or signed out since."""
    claims = context.tokens.verify(token, context.clock.now())

    def work(connection: Connection) -> User | None:
        return accounts.by_id(connection, claims.user_id)

    user = await context.database.read(work)
    if user is None or user.token_epoch != claims.epoch:
        raise Unauthenticated
    return Caller(user, expires_at=datetime.fromtimestamp(claims.expires, UTC))


async def by_api_key(context: Context, key: str) -> Caller:
    """The owner of an API key, with the key's scope. Raises Unauthenticated: unknown or expired.

    The key of an instance is one as well, as long as the instance is there.
    """
    if not key.startswith(API_KEY_MARK) or len(key) > API_KEY_CHARACTERS_MOST:
        raise Unauthenticated
    mark = hash_of(key)

    def work(connection: Connection) -> tuple[User, ApiKey | str] | None:
        return accounts.owner_of_api_key(connection, mark) or accounts.owner_of_instance_key(connection, mark)

    found = await context.database.read(work)
    if found is None:
        raise Unauthenticated
    user, api_key = found
    if isinstance(api_key, str):
        return Caller(user, Scope.INSTANCE, instance_id=api_key)
    if api_key.expires_at is not None and api_key.expires_at <= context.clock.now():
        raise Unauthenticated
    return Caller(user, api_key.scope, api_key.id, expires_at=api_key.expires_at)


def hash_of(key: str) -> str:
    """What is stored of an API key: 32 random bytes need no salt and no slow hash."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def require_login(caller: Caller) -> None:
    """Raise Forbidden for a caller with an API key: it may never make or change what lets people in."""
    if caller.api_key_id is not None or caller.instance_id is not None:
        raise Forbidden(
            "An API key cannot manage keys or passwords; log in with user name and password",
            code="loginRequired",
        )
