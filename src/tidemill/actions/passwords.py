"""Passwords: argon2id, compared in the same time whether there is such a user or not."""

from __future__ import annotations

import base64
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_HASHER = PasswordHasher()


def _decoy() -> str:
    """A hash that nothing matches, and that costs as much to compare with as a real one."""
    salt, digest = (
        base64.b64encode(secrets.token_bytes(length)).rstrip(b"=").decode("ascii")
        for length in (_HASHER.salt_len, _HASHER.hash_len)
    )
    costs = f"m={_HASHER.memory_cost},t={_HASHER.time_cost},p={_HASHER.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${digest}"


_DECOY = _decoy()


def hash_password(password: str) -> str:
    """What to store for ``password``. Takes tens of milliseconds and 64 MiB: call it on a thread."""
    return _HASHER.hash(password)


def matches(password: str, stored: str | None) -> bool:
    """Whether ``stored`` is a hash of ``password``; None (no such user) takes as long and is False."""
    try:
        return _HASHER.verify(stored or _DECOY, password) and stored is not None
    except (VerificationError, InvalidHashError):
        return False


def outdated(stored: str) -> bool:
    """Whether ``stored`` was made with other costs than those of today."""
    return _HASHER.check_needs_rehash(stored)
