"""Access tokens: RS256 JSON Web Tokens under keys that lie as files in one folder.

Several keys may lie there: the one whose file name sorts last signs, all of them verify. A key is
rotated by adding one (:func:`add_key`) and retired by removing its file once its last token has
expired; a running server notices both. Time is always passed in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from tidemill.logs import Logger
from tidemill.model.account import User
from tidemill.model.errors import Misconfigured, Unauthenticated

log = Logger("tokens")

BITS = 2048
BITS_LEAST = 2048
REMEMBERED = 4096
TOKEN_CHARACTERS_MOST = 8192

# What to check is said here once; the instants are compared below, with the time passed in.
_CHECKS: Any = {
    "require": ["aud", "iss", "sub", "group", "iat", "exp", "jti"],
    "verify_signature": True,
    "verify_aud": True,
    "verify_iss": True,
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says. ``epoch`` has to be the user's present ``token_epoch``."""

    user_id: str
    groups: tuple[str, ...]
    epoch: int
    expires: int


class Tokens:
    """Issues and verifies tokens. Raises Misconfigured when the keys are unusable or readable by others."""

    def __init__(self, folder: Path, issuer: str, audience: str, seconds: int) -> None:
        self.seconds = seconds
        self._folder = folder
        self._issuer = issuer
        self._audience = audience
        self._seen = -1
        self._trouble = ""  # why the keys could not be read at the last look
        self._keys: dict[str, RSAPrivateKey] = {}
        self._verified: OrderedDict[bytes, Claims] = OrderedDict()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
        if not _files(folder):
            add_key(folder, first=True)
        self._look()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The keys that verify; the last one signs."""
        self._look()
        return tuple(self._keys)

    def issue(self, user: User, now: datetime) -> str:
        """A new token for ``user``, good for ``seconds`` from ``now``."""
        self._look()
        kid, key = list(self._keys.items())[-1]
        issued = int(now.timestamp())
        claims: dict[str, Any] = {
            "aud": [self._audience],
            "iss": self._issuer,
            "sub": user.id,
            "group": list(user.groups),
            "iat": issued,
            "exp": issued + self.seconds,
            "jti": f"{user.token_epoch}.{secrets.token_hex(8)}",
        }
        return jwt.encode(claims, key, algorithm="RS256", headers={"kid": kid})

    def verify(self, token: str, now: datetime) -> Claims:
        """What ``token`` says. Raises Unauthenticated for a bad or expired one."""
        self._look()
        if len(token) > TOKEN_CHARACTERS_MOST:
            raise Unauthenticated
        mark = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        claims = self._verified.get(mark)
        if claims is None:
            claims = self._decode(token)
            self._verified[mark] = claims
            if len(self._verified) > REMEMBERED:
                self._verified.popitem(last=False)
        if claims.expires <= now.timestamp():
            raise Unauthenticated
        return claims

    def _decode(self, token: str) -> Claims:
        try:
            key = self._keys[str(jwt.get_unverified_header(token).get("kid"))]
            said = jwt.decode(
                token,
                key.public_key(),
                algorithms=["RS256"],
                audience=self._audience,
                issuer=self._issuer,
                options=_CHECKS,
            )
            epoch = int(str(said["jti"]).partition(".")[0])
            return Claims(str(said["sub"]), tuple(said["group"]), epoch, int(said["exp"]))
        except (jwt.PyJWTError, KeyError, TypeError, ValueError):
            raise Unauthenticated from None

    def jwks(self) -> Mapping[str, Any]:
        """The public keys as a JSON Web Key Set."""
        self._look()
        return {
            "keys": [
                {**_public_numbers(key), "kid": kid, "use": "sig", "alg": "RS256"}
                for kid, key in self._keys.items()
            ]
        }

    def _look(self) -> None:
        """Read the keys again when a file was added or removed.

        What cannot be read while the server runs signs nobody out: the keys it has stay good.
        """
        try:
            seen = self._folder.stat().st_mtime_ns
            if seen == self._seen:
                return
            keys = {_kid(key): key for key in map(_read, _files(self._folder))}
            if not keys:
                raise Misconfigured(f"No token key is left in {self._folder}; restart the server to make one")
        except (Misconfigured, OSError) as error:
            if not self._keys:
                raise
            # Tried again at every look: a file that is written to its end, or whose rights are mended,
            # does not show at its folder.
            if str(error) != self._trouble:
                log.error("the token keys cannot be read again; those in memory stay", error=str(error))
            self._trouble = str(error)
        else:
            self._keys = keys
            self._verified.clear()
            self._trouble = ""
            self._seen = seen


def add_key(folder: Path, *, first: bool = False) -> Path:
    """Make a new key that signs from now on; older ones stay good. Returns its file.

    With ``first``, a key that another process made at the same moment is as good.
    """
    key = generate_private_key(public_exponent=65537, key_size=BITS)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    new = folder / f".new-{secrets.token_hex(8)}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        while True:
            numbers = [int(name.stem.removeprefix("token-")) for name in _files(folder)]
            target = folder / f"token-{max(numbers, default=0) + 1:06}.pem"
            if first and numbers:
                return _files(folder)[-1]
            try:
                os.link(new, target)
            except FileExistsError:
                continue
            return target
    finally:
        new.unlink()


def key_troubles(folder: Path) -> list[str]:
    """What is wrong with the keys that lie there; nothing is made or changed."""
    files = _files(folder)
    if not files:
        return ["there is no key that signs access tokens; the server makes one when it starts"]
    troubles: list[str] = []
    for file in files:
        try:
            _read(file)
        except Misconfigured as error:
            troubles.append(error.message)
        except OSError as error:
            troubles.append(f"The token key {file} cannot be read ({error.strerror})")
    return troubles


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("token-*.pem") if file.stem.removeprefix("token-").isdecimal())


def _read(file: Path) -> RSAPrivateKey:
    if file.stat().st_mode & 0o077:
        raise Misconfigured(f"The token key {file} can be read by others; chmod 600 it, or replace it")
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise Misconfigured(f"The token key {file} is not a PEM private key") from error
    if not isinstance(key, RSAPrivateKey) or key.key_size < BITS_LEAST:
        raise Misconfigured(f"The token key {file} is not an RSA key of at least {BITS_LEAST} bits")
    return key


def _public_numbers(key: RSAPrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {"e": _base64(numbers.e), "kty": "RSA", "n": _base64(numbers.n)}


def _base64(number: int) -> str:
    return _unpadded(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _kid(key: RSAPrivateKey) -> str:
    """The key's thumbprint by RFC 7638: the same on every server."""
    canonical = json.dumps(_public_numbers(key), separators=(",", ":"), sort_keys=True)
    return _unpadded(hashlib.sha256(canonical.encode("ascii")).digest())
