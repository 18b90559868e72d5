"""Another account, made by the operator on the server's machine."""

from __future__ import annotations

import secrets
from datetime import datetime

from tidemill.actions.passwords import hash_password
from tidemill.model.account import User
from tidemill.store import accounts
from tidemill.store.database import Database


def add_user(database: Database, username: str, *, is_admin: bool, now: datetime) -> tuple[User, str]:
    """A new account and its generated password, which is kept nowhere. Raises Invalid, Conflict."""
    password = secrets.token_urlsafe(15)
    hashed = hash_password(password)
    user = database.run(
        lambda connection: accounts.create_user(
            connection, username=username, password_hash=hashed, is_admin=is_admin, now=now
        )
    )
    return user, password
