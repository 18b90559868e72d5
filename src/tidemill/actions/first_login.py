"""The first two accounts of a new deployment: an administrator and a user."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from tidemill.actions.passwords import hash_password, matches
from tidemill.model.errors import Conflict, Misconfigured
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
    nobody knows. A deployment that has users already gets no new ones, also when it got them from
    another server at this instant: then no file stays behind with passwords that are nobody's.
    Raises Misconfigured when the file is damaged.
    """
    path = data_dir / FILE
    is_new = not path.exists()
    if is_new:
        if database.run(accounts.any_user):
            return []
        _write(path, [_generated("admin", is_admin=True), _generated("user", is_admin=False)])
    try:
        logins = [FirstLogin(**entry) for entry in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise Misconfigured(
            f"{path} cannot be read ({error}); move it away if the accounts are in use"
        ) from None
    _ensure(database, logins, now)
    if is_new and not any(_is_good(database, login) for login in logins):
        path.unlink(missing_ok=True)
        return []
    return logins


def _ensure(database: Database, logins: list[FirstLogin], now: datetime) -> None:
    """Those that are missing, in one transaction: of two servers one makes them all."""
    missing = [login for login in logins if _stored(database, login) is None]
    hashes = {login.username: hash_password(login.password) for login in missing}

    def work(connection: Connection) -> None:
        for login in missing:
            if accounts.by_username(connection, login.username) is None:
                accounts.create_user(
                    connection,
                    username=login.username,
                    password_hash=hashes[login.username],
                    is_admin=login.is_admin,
                    now=now,
                )

    with suppress(Conflict):  # another server made them at this instant
        database.run(work)


def _is_good(database: Database, login: FirstLogin) -> bool:
    return matches(login.password, _stored(database, login))


def _stored(database: Database, login: FirstLogin) -> str | None:
    found = database.run(lambda connection: accounts.login_of(connection, login.username))
    return None if found is None else found.password_hash


def _generated(username: str, *, is_admin: bool) -> FirstLogin:
    return FirstLogin(username, secrets.token_urlsafe(15), is_admin)


def _write(path: Path, logins: list[FirstLogin]) -> None:
    """Write the file whole, unless another process did so at this instant: then that one counts."""
    new = path.with_name(f".{FILE}-{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump([asdict(login) for login in logins], file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink()
