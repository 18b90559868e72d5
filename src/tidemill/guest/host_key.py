"""An instance's ssh host key: from a seed to dropbear's file and to the line clients know it by."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED_BYTES = 32
_TYPE = b"ssh-ed25519"


def dropbear_private_key(seed: bytes) -> bytes:
    """The private key of an ed25519 ``seed`` in dropbear's file format.

    Raises ValueError unless the seed has 32 bytes.
    """
    public = _public(seed)
    return _string(_TYPE) + _string(seed + public)


def public_key_line(seed: bytes, comment: str = "") -> str:
    """The public key of an ed25519 ``seed``, ``ssh-ed25519 AAAA...``, as in authorized_keys.

    After a host name it makes a line of known_hosts. Raises ValueError unless the seed has 32 bytes.
    """
    encoded = base64.b64encode(_string(_TYPE) + _string(_public(seed))).decode()
    return " ".join(filter(None, (_TYPE.decode(), encoded, comment)))


def known_hosts_line(seed: bytes, address: str, port: int = 22) -> str:
    """The line of known_hosts by which a client recognises the instance at ``address``, ``port``."""
    name = address if port == 22 else f"[{address}]:{port}"
    return f"{name} {public_key_line(seed)}"


def _public(seed: bytes) -> bytes:
    if len(seed) != SEED_BYTES:
        raise ValueError(f"an ed25519 seed has {SEED_BYTES} bytes")
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _string(value: bytes) -> bytes:
    """A byte string in ssh's encoding: its length in four bytes, then itself."""
    return len(value).to_bytes(4, "big") + value
