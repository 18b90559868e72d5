"""Reads one OpenSSH public key, strictly: these lines end up in a file that opens machines."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from tidemill.model.errors import Invalid

RSA_BITS_LEAST = 2048
RSA_BITS_MOST = 16384
CHARACTERS_MOST = 16384
COMMENT_MOST = 255

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "nistp256": ec.SECP256R1,
    "nistp384": ec.SECP384R1,
    "nistp521": ec.SECP521R1,
}
_PLAIN = ("ssh-ed25519", "ssh-rsa", *(f"ecdsa-sha2-{curve}" for curve in _CURVES))
_HARDWARE = ("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com")
KINDS = (*_PLAIN, *_HARDWARE)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """``line`` is "type base64 comment" with single spaces; ``fingerprint`` "SHA256:...", as ssh shows it."""

    line: str
    fingerprint: str
    comment: str


def read_public_key(text: str) -> PublicKey:
    """The key in ``text``. Raises Invalid, saying what is wrong with it."""
    text = text.strip()
    if "PRIVATE KEY" in text:
        raise _bad(
            "it is a private key: keep that to yourself (and replace it if others could read this), "
            "and give the public one, the file that ends in .pub"
        )
    if len(text) > CHARACTERS_MOST:
        raise _bad(f"it is longer than {CHARACTERS_MOST} characters")
    if not text.isprintable():
        raise _bad("it must be one line without control characters")
    kind, _, rest = text.partition(" ")
    if kind not in KINDS:
        raise _bad(_why_not(kind, text))
    encoded, _, comment = rest.strip().partition(" ")
    comment = " ".join(comment.split())
    if len(comment) > COMMENT_MOST:
        raise _bad(f"its comment is longer than {COMMENT_MOST} characters")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise _bad("its second word is not base64") from None
    canonical = base64.b64encode(blob).decode("ascii")
    if not blob or canonical != encoded:
        raise _bad("its second word is not base64 as OpenSSH writes it")
    _check(kind, _Blob(blob))
    digest = base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode("ascii")
    return PublicKey(f"{kind} {canonical} {comment}".rstrip(), f"SHA256:{digest}", comment)


def _bad(reason: str) -> Invalid:
    return Invalid(f'field "publicKey" is not a usable OpenSSH public key: {reason}', code="badSshKey")


def _why_not(kind: str, text: str) -> str:
    if any(word in KINDS for word in text.split()[1:]):
        return "options before the key are not accepted; give the key alone"
    if kind == "ssh-dss":
        return "DSA keys are no longer safe; make one by: ssh-keygen -t ed25519"
    if "-cert-v0" in kind:
        return "certificates are not accepted; give the key itself"
    return "its first word is none of " + ", ".join(KINDS)


class _Blob:
    """The fields inside a key, each with its length before it (RFC 4251)."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def string(self) -> bytes:
        length = int.from_bytes(self._rest[:4], "big")
        found = self._rest[4 : 4 + length]
        if len(self._rest) < 4 or len(found) != length:
            raise _bad("it is cut off")
        self._rest = self._rest[4 + length :]
        return found

    def number(self) -> int:
        data = self.string()
        if not data or data[0] & 0x80 or (data[0] == 0 and (len(data) == 1 or not data[1] & 0x80)):
            raise _bad("it holds a malformed number")
        return int.from_bytes(data, "big")

    def end(self) -> None:
        if self._rest:
            raise _bad("there is something behind the key")


def _check(kind: str, blob: _Blob) -> None:
    if blob.string() != kind.encode("ascii"):
        raise _bad("its first word does not say what the key is")
    if kind == "ssh-rsa":
        _check_rsa(blob.number(), blob.number())
    elif "ed25519" in kind:
        if len(blob.string()) != 32:
            raise _bad("an ed25519 key has 32 bytes")
    else:
        _check_point(kind.removesuffix("@openssh.com").rpartition("-")[2], blob)
    if kind in _HARDWARE and not blob.string():
        raise _bad("it names no application")
    blob.end()


def _check_rsa(exponent: int, modulus: int) -> None:
    bits = modulus.bit_length()
    if not RSA_BITS_LEAST <= bits <= RSA_BITS_MOST:
        raise _bad(f"an RSA key must have {RSA_BITS_LEAST} to {RSA_BITS_MOST} bits, and this one has {bits}")
    if exponent < 3 or exponent % 2 == 0 or modulus % 2 == 0 or exponent.bit_length() > 64:
        raise _bad("its RSA numbers are not those of a key")


def _check_point(curve: str, blob: _Blob) -> None:
    if blob.string() != curve.encode("ascii"):
        raise _bad("its first word does not say which curve the key is on")
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve](), blob.string())
    except (ValueError, UnsupportedAlgorithm):
        raise _bad("its point is not on the curve") from None
