"""The first two accounts of a new deployment: an administrator and a user."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from tidemill.actions.passwords import hash_password
from tidemill.model.errors import Misconfigured
from tidemill.store import accounts
from tidemill.store.database import Database

FILE = "first-login.json"


@dataclass(frozen=True, slots=True)
class FirstLogin:
    """A generated account. Its password lies in a file that only the operator can read."""

    username: str
    password: str
    is_admin: bool


def ensure_first_logins(database: Database, data_dir: Path, now: datetime) -> list[FirstLogin]:
    """Make the accounts that ``first-login.json`` names, after writing that file where it is missing.

    The file comes first, so that a crash in between leaves no account with a password that
    nobody knows. A deployment that has users already gets no new ones.
    Raises Misconfigured when the file is damaged.
    """
    path = data_dir / FILE
    if not path.exists():
        if database.run(accounts.any_user):
            return []
        _write(path, [_generated("admin", is_admin=True), _generated("user", is_admin=False)])
    try:
        logins = [FirstLogin(**entry) for entry in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise Misconfigured(
            f"{path} cannot be read ({error}); move it away if the accounts are in use"
        ) from None
    for login in logins:
        _ensure(database, login, now)
    return logins


def _ensure(database: Database, login: FirstLogin, now: datetime) -> None:
    def work(connection: Connection) -> None:
        if accounts.by_username(connection, login.username) is None:
            accounts.create_user(
                connection,
                username=login.username,
                password_hash=password_hash,
                is_admin=login.is_admin,
                now=now,
            )

    if database.run(lambda connection: accounts.by_username(connection, login.username)) is None:
        password_hash = hash_password(login.password)
        database.run(work)


def _generated(username: str, *, is_admin: bool) -> FirstLogin:
    return FirstLogin(username, secrets.token_urlsafe(15), is_admin)


def _write(path: Path, logins: list[FirstLogin]) -> None:
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump([asdict(login) for login in logins], file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
