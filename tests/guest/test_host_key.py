"""A host key's two forms agree with each other and with what OpenSSH and cryptography make of them."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tidemill.guest.host_key import dropbear_private_key, known_hosts_line, public_key_line
from tidemill.guest.installed import InstalledGuest

seeds = st.binary(min_size=32, max_size=32)


@given(seeds)
def test_public_line_is_openssh_s(seed: bytes) -> None:
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    assert public_key_line(seed).encode() == public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@given(seeds)
def test_private_file_holds_seed_and_public_key(seed: bytes) -> None:
    content = dropbear_private_key(seed)
    public = base64.b64decode(public_key_line(seed).split()[1])
    assert len(content) == 4 + 11 + 4 + 64
    assert content.startswith(public[:15])
    assert content.endswith(seed + public[-32:])


@given(st.binary(max_size=64).filter(lambda seed: len(seed) != 32))
def test_other_lengths_are_refused(seed: bytes) -> None:
    for make in (dropbear_private_key, public_key_line):
        with pytest.raises(ValueError, match="32 bytes"):
            make(seed)


@pytest.mark.parametrize(("port", "name"), [(22, "gpu.example.org"), (31022, "[gpu.example.org]:31022")])
def test_known_hosts_line_is_found_by_openssh(tmp_path: Path, port: int, name: str) -> None:
    (tmp_path / "known_hosts").write_text(known_hosts_line(bytes(32), "gpu.example.org", port) + "\n")
    found = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", tmp_path / "known_hosts"], capture_output=True, check=True
    )
    assert public_key_line(bytes(32)).encode() in found.stdout


@given(st.text(min_size=1))
def test_an_init_script_only_loses_the_forms_line_ends(script: str) -> None:
    files = InstalledGuest(Path("/guest")).files(authorized_keys=[], host_key=bytes(32), init_script=script)
    assert files["init_script"].decode() == script.replace("\r\n", "\n")
    assert files["authorized_keys"] == b""


def test_without_an_init_script_there_is_no_file() -> None:
    files = InstalledGuest(Path("/guest")).files(
        authorized_keys=["a b", "c d"], host_key=bytes(32), init_script=""
    )
    assert files.keys() == {"authorized_keys", "host_key"}
    assert files["authorized_keys"] == b"a b\nc d\n"


@pytest.mark.parametrize("line", ["a\nb", "a\rb", "a\0b", "a\n"])
def test_one_key_cannot_bring_another(line: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        InstalledGuest(Path("/guest")).files(authorized_keys=[line], host_key=bytes(32), init_script="")
