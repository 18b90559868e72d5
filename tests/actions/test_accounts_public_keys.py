"""ssh keys: everything OpenSSH makes is read as OpenSSH reads it; all else is refused, with a reason."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tidemill.actions.public_keys import read_public_key
from tidemill.model.errors import Invalid


def field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def number(value: int) -> bytes:
    return field(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def line(kind: str, *fields: bytes, comment: str = "me@home") -> str:
    return f"{kind} {base64.b64encode(field(kind.encode()) + b''.join(fields)).decode()} {comment}"


POINT = (
    ec.derive_private_key(20260301, ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
)
RAW = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
GOOD = line("ssh-ed25519", field(RAW))


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        ("ed25519", None),
        ("rsa", "2048"),
        ("rsa", "3072"),
        ("ecdsa", "256"),
        ("ecdsa", "384"),
        ("ecdsa", "521"),
    ],
)
def test_what_ssh_keygen_makes(tmp_path: Path, kind: str, bits: str | None) -> None:
    file = tmp_path / "key"
    size = [] if bits is None else ["-b", bits]
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", "a comment", "-f", file], check=True
    )
    text = file.with_suffix(".pub").read_text()
    read = read_public_key(text)
    shown = subprocess.run(["ssh-keygen", "-l", "-f", file], check=True, capture_output=True, text=True)
    assert read.line == text.strip()
    assert read.comment == "a comment"
    assert read.fingerprint == shown.stdout.split()[1]
    with pytest.raises(Invalid, match="private key") as raised:
        read_public_key(file.read_text())
    assert file.read_text().splitlines()[1] not in str(raised.value)


def test_hardware_keys() -> None:
    for text in (
        line("sk-ssh-ed25519@openssh.com", field(RAW), field(b"ssh:")),
        line("sk-ecdsa-sha2-nistp256@openssh.com", field(b"nistp256"), field(POINT), field(b"ssh:")),
    ):
        assert read_public_key(text).line == text


def test_it_is_kept_in_one_form() -> None:
    kind, encoded, _ = GOOD.split()
    assert read_public_key(f"  {kind}  {encoded}   two   words \r\n").line == f"{kind} {encoded} two words"
    assert read_public_key(f"{kind} {encoded}").line == f"{kind} {encoded}"


MODULUS = (1 << 2047) | 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "first word"),
        ("hello", "first word"),
        ("ssh-ed25519", "not base64"),
        ("ssh-ed25519 !!!!", "not base64"),
        ("ssh-ed25519 ünïcode", "not base64"),
        (GOOD.replace("ssh-ed25519", "ssh-rsa"), "does not say what the key is"),
        (f'command="id" {GOOD}', "options"),
        (f"no-pty,no-X11-forwarding {GOOD}", "options"),
        (f"{GOOD}\n{GOOD}", "one line"),
        (f"{GOOD}\rssh-rsa", "one line"),
        (f"{GOOD}\0", "one line"),
        (f"{GOOD}\u2028x", "one line"),
        (GOOD + "x" * 300, "comment is longer"),
        ("ssh-ed25519 " + "A" * 20_000, "longer than 16384"),
        ("ssh-dss AAAA", "no longer safe"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "certificates"),
        (line("ssh-ed25519", field(RAW[:31])), "32 bytes"),
        (line("ssh-ed25519", field(RAW), b"more"), "behind the key"),
        (line("ssh-ed25519", b"\0\0\1\0" + RAW), "cut off"),
        (line("ssh-ed25519"), "cut off"),
        (
            line("ssh-rsa", number(65537), number((1 << 1023) | 1)),
            "and this one has 1024",
        ),
        (line("ssh-rsa", number(1), number(MODULUS)), "not those of a key"),
        (line("ssh-rsa", number(65536), number(MODULUS)), "not those of a key"),
        (line("ssh-rsa", field(b"\x00\x03"), number(MODULUS)), "malformed number"),
        (line("ssh-rsa", field(b"\x83"), number(MODULUS)), "malformed number"),
        (line("ecdsa-sha2-nistp256", field(b"nistp384"), field(POINT)), "which curve"),
        (line("ecdsa-sha2-nistp256", field(b"nistp256"), field(POINT[:-1] + b"\0\0")), "not on the curve"),
        (line("ecdsa-sha2-nistp384", field(b"nistp384"), field(POINT)), "not on the curve"),
        (line("sk-ssh-ed25519@openssh.com", field(RAW), field(b"")), "no application"),
        (GOOD.replace(" me@home", "="), "not base64"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Invalid) as raised:
        read_public_key(text)
    assert raised.value.message.startswith('field "publicKey" is not a usable OpenSSH public key: ')
    assert reason in raised.value.message


@given(st.integers(0, len(GOOD.split()[1]) - 1), st.characters(), st.text(max_size=20))
def test_a_line_with_anything_in_it_stays_one_key(place: int, char: str, comment: str) -> None:
    kind, encoded, _ = GOOD.split()
    try:
        read = read_public_key(f"{kind} {encoded[:place]}{char}{encoded[place + 1 :]} {comment}")
    except Invalid:
        return
    assert read.line.isprintable()
    assert read.line.split()[0] == kind
    assert len(base64.b64decode(read.line.split()[1])) == 51
