"""Users, their API keys and their ssh keys."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, RowMapping, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import ColumnElement

from tidemill.model.account import ApiKey, Scope, SshKey, User
from tidemill.model.errors import Conflict, Forbidden, Invalid
from tidemill.model.lifecycle import State
from tidemill.store import schema
from tidemill.store.prepared import Prepared
from tidemill.store.schema import users

USERNAME_MOST = 255
KEYS_MOST = 100

_USER = (users.c.id, users.c.username, users.c.is_admin, users.c.token_epoch, users.c.created_at)
_USER_BY_ID = Prepared(select(*_USER).where(users.c.id == bindparam("wanted_id")))
_API_KEY = tuple(
    schema.api_keys.c[name] for name in ("id", "name", "hint", "scope", "created_at", "expires_at")
)
_SSH_KEY = tuple(
    schema.ssh_keys.c[name] for name in ("id", "name", "public_key", "fingerprint", "created_at")
)

_OWNER_OF_KEY = Prepared(
    select(*_USER, *_API_KEY)
    .join_from(users, schema.api_keys, schema.api_keys.c.user_id == users.c.id)
    .where(schema.api_keys.c.hash == bindparam("wanted_hash"))
)
_OWNER_OF_INSTANCE_KEY = Prepared(
    select(*_USER, schema.instances.c.id)
    .join_from(users, schema.instances, schema.instances.c.user_id == users.c.id)
    .where(
        schema.instances.c.key_hash == bindparam("wanted_hash"),
        schema.instances.c.state != State.RELEASED.value,
    )
)
_SSH_KEYS = Prepared(
    select(*_SSH_KEY)
    .where(schema.ssh_keys.c.user_id == bindparam("owner"))
    .order_by(schema.ssh_keys.c.created_at, schema.ssh_keys.c.id)
)


@dataclass(frozen=True, slots=True)
class Login:
    """A user with the hash that a password is compared with."""

    user: User
    password_hash: str = field(repr=False)


def normalised(username: str) -> str:
    """The one spelling of a user name: names that look the same are the same."""
    return unicodedata.normalize("NFKC", username).strip().casefold()


def create_user(
    connection: Connection, *, username: str, password_hash: str, is_admin: bool, now: datetime
) -> User:
    """Write a new user. Raises Invalid (no usable name), Conflict (the name is taken)."""
    name = normalised(username)
    if not 1 <= len(name) <= USERNAME_MOST or not name.isprintable():
        raise Invalid(f"A user name has 1 to {USERNAME_MOST} printable characters", code="badUsername")
    user = User(str(uuid4()), name, is_admin, 0, now)
    if by_username(connection, name) is not None:
        raise _taken(name)
    try:
        connection.execute(
            insert(users),
            {
                "id": user.id,
                "username": name,
                "password_hash": password_hash,
                "is_admin": is_admin,
                "token_epoch": 0,
                "created_at": now,
            },
        )
    except IntegrityError:
        raise _taken(name) from None
    return user


def any_user(connection: Connection) -> bool:
    """Whether this deployment has any account yet."""
    return connection.execute(select(users.c.id).limit(1)).first() is not None


def _taken(name: str) -> Conflict:
    return Conflict(f'There is a user "{name}" already', code="usernameTaken")


def by_id(connection: Connection, user_id: str) -> User | None:
    row = _USER_BY_ID.first(connection, {"wanted_id": user_id})
    return None if row is None else User(*row)


def by_username(connection: Connection, username: str) -> User | None:
    found = login_of(connection, username)
    return None if found is None else found.user


def page_of_users(
    connection: Connection,
    *,
    offset: int,
    limit: int,
    username: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[list[User], int]:
    """Users made in [since, until) whose names have ``username`` in them, by name; and how many in all."""
    conditions: list[ColumnElement[bool]] = []
    if username is not None:
        conditions.append(users.c.username.contains(normalised(username), autoescape=True))
    if since is not None:
        conditions.append(users.c.created_at >= since)
    if until is not None:
        conditions.append(users.c.created_at < until)
    total = connection.execute(select(func.count()).select_from(users).where(*conditions)).scalar_one()
    rows = connection.execute(
        select(*_USER).where(*conditions).order_by(users.c.username).offset(offset).limit(limit)
    )
    return [User(*row) for row in rows], total


def login_of(connection: Connection, username: str) -> Login | None:
    """The user of that name, in any spelling, with the password's hash."""
    row = (
        connection.execute(
            select(*_USER, users.c.password_hash).where(users.c.username == normalised(username))
        )
        .mappings()
        .first()
    )
    return None if row is None else Login(_user(row), row["password_hash"])


def replace_hash(connection: Connection, user_id: str, old: str, new: str) -> bool:
    """Write another hash of the same password; False when it was changed meanwhile."""
    written = connection.execute(
        update(users).where(users.c.id == user_id, users.c.password_hash == old).values(password_hash=new)
    )
    return written.rowcount == 1


def revoke_tokens(connection: Connection, user_id: str) -> None:
    """End every token that was given out so far."""
    connection.execute(update(users).where(users.c.id == user_id).values(token_epoch=users.c.token_epoch + 1))


def _user(row: RowMapping) -> User:
    return User(row["id"], row["username"], row["is_admin"], row["token_epoch"], row["created_at"])


def take_turn(connection: Connection, user_id: str) -> None:
    """Until the transaction ends, nobody else counts what this user has in order to add to it."""
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True))


def _make_room(connection: Connection, table: Table, user_id: str, what: str) -> None:
    """Raise Forbidden when the user has as many rows of ``table`` as may be; else hold the place."""
    take_turn(connection, user_id)
    count = connection.execute(
        select(func.count()).select_from(table).where(table.c.user_id == user_id)
    ).scalar_one()
    if count >= KEYS_MOST:
        raise Forbidden(
            f"An account has at most {KEYS_MOST} {what}, and this one has {count}; delete one first",
            code="quotaExceeded",
        )


def add_api_key(connection: Connection, user_id: str, key: ApiKey, key_hash: str) -> None:
    """Write an API key. Raises Forbidden when there are too many."""
    _make_room(connection, schema.api_keys, user_id, "API keys")
    connection.execute(
        insert(schema.api_keys),
        {
            "id": key.id,
            "user_id": user_id,
            "name": key.name,
            "hash": key_hash,
            "hint": key.hint,
            "scope": key.scope.value,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
        },
    )


def api_keys(connection: Connection, user_id: str) -> list[ApiKey]:
    """The user's API keys, oldest first, also expired ones."""
    rows = connection.execute(
        select(*_API_KEY)
        .where(schema.api_keys.c.user_id == user_id)
        .order_by(schema.api_keys.c.created_at, schema.api_keys.c.id)
    ).mappings()
    return [_api_key(row) for row in rows]


def delete_api_key(connection: Connection, user_id: str, key_id: str) -> bool:
    """False when there is none of that id, or it is not the user's."""
    return _delete(connection, schema.api_keys, user_id, key_id)


def owner_of_api_key(connection: Connection, key_hash: str) -> tuple[User, ApiKey] | None:
    """Whose key that is; also for an expired one."""
    row = _OWNER_OF_KEY.first(connection, {"wanted_hash": key_hash})
    if row is None:
        return None
    key_id, name, hint, scope, created_at, expires_at = row[len(_USER) :]
    return User(*row[: len(_USER)]), ApiKey(key_id, name, hint, Scope(scope), created_at, expires_at)


def owner_of_instance_key(connection: Connection, key_hash: str) -> tuple[User, str] | None:
    """Whose instance's key that is, and which instance's; None for one that is released."""
    row = _OWNER_OF_INSTANCE_KEY.first(connection, {"wanted_hash": key_hash})
    return None if row is None else (User(*row[: len(_USER)]), str(row[len(_USER)]))


def _api_key(row: RowMapping) -> ApiKey:
    return ApiKey(
        row["id"], row["name"], row["hint"], Scope(row["scope"]), row["created_at"], row["expires_at"]
    )


def add_ssh_key(connection: Connection, user_id: str, key: SshKey) -> None:
    """Write an ssh key. Raises Conflict (the account has it already), Forbidden (too many)."""
    _make_room(connection, schema.ssh_keys, user_id, "ssh keys")
    values: dict[str, Any] = {
        "id": key.id,
        "user_id": user_id,
        "name": key.name,
        "public_key": key.public_key,
        "fingerprint": key.fingerprint,
        "created_at": key.created_at,
    }
    try:
        connection.execute(insert(schema.ssh_keys), values)
    except IntegrityError:
        raise Conflict(
            f"This account has the ssh key {key.fingerprint} already", code="sshKeyExists"
        ) from None


def ssh_keys(connection: Connection, user_id: str) -> list[SshKey]:
    """The user's ssh keys, oldest first."""
    return [SshKey(*row) for row in _SSH_KEYS.all(connection, {"owner": user_id})]


def delete_ssh_key(connection: Connection, user_id: str, key_id: str) -> bool:
    """False when there is none of that id, or it is not the user's."""
    return _delete(connection, schema.ssh_keys, user_id, key_id)


def _delete(connection: Connection, table: Table, user_id: str, key_id: str) -> bool:
    gone = connection.execute(delete(table).where(table.c.id == key_id, table.c.user_id == user_id))
    return gone.rowcount == 1
