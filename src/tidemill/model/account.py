"""Who is calling: users, and what their keys may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Scope(StrEnum):
    """What an API key may do. ``full`` is what its owner may do, except to manage keys.

    ``instance`` is what the key inside an instance may: see that one, stop it, restart it, terminate it.
    """

    FULL = "full"
    READ = "read"
    INSTANCE = "instance"


@dataclass(frozen=True, slots=True)
class User:
    """A tenant: whoever owns instances. ``token_epoch`` grows when all tokens are revoked."""

    id: str
    username: str
    is_admin: bool
    token_epoch: int
    created_at: datetime

    @property
    def groups(self) -> tuple[str, ...]:
        return ("admin", "user") if self.is_admin else ("user",)


@dataclass(frozen=True, slots=True)
class Caller:
    """A user together with how they proved it. ``scope`` limits what an API key may do.

    ``instance_id`` is the only instance that the key reaches, None for no such limit. ``expires_at`` is when
    what they proved it with ends by itself, None for never.
    """

    user: User
    scope: Scope = Scope.FULL
    api_key_id: str | None = None
    instance_id: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as its owner sees it; the key itself is stored hashed and shown once."""

    id: str
    name: str
    hint: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class SshKey:
    """A public key that opens its owner's instances. ``fingerprint`` is OpenSSH's SHA256 form."""

    id: str
    name: str
    public_key: str
    fingerprint: str
    created_at: datetime
