"""Whether the server is alive and ready, and its public keys, on the wire."""

from __future__ import annotations

from tidemill.wire.answers import Answer


class AliveAnswer(Answer):
    """``status`` is "ok"."""

    status: str


class PublicKeyRow(Answer):
    kty: str
    n: str
    e: str
    kid: str
    use: str
    alg: str


class KeySetAnswer(Answer):
    """The public keys of the access tokens (RFC 7517)."""

    keys: list[PublicKeyRow]
