"""Access tokens: what they say, when they end, and keys that come and go."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from tests.stock import START

from tidemill.actions.tokens import Tokens, add_key
from tidemill.model.account import User
from tidemill.model.errors import Misconfigured, Unauthenticated

DAY = 86400
ALICE = User("0f5a2c1e-0000-4000-8000-00000000000a", "alice", is_admin=True, token_epoch=3, created_at=START)


def made(folder: Path, **changes: str) -> Tokens:
    return Tokens(folder, changes.get("issuer", "us"), changes.get("audience", "our users"), DAY)


def test_the_claims_are_those_of_the_contract(tmp_path: Path) -> None:
    tokens = made(tmp_path / "keys")
    token = tokens.issue(ALICE, START)
    claims = jwt.decode(token, options={"verify_signature": False})
    jti = claims.pop("jti")
    assert claims == {
        "aud": ["our users"],
        "iss": "us",
        "sub": ALICE.id,
        "group": ["admin", "user"],
        "iat": int(START.timestamp()),
        "exp": int(START.timestamp()) + DAY,
    }
    assert jti.startswith("3.")
    assert tokens.issue(ALICE, START) != token
    found = tokens.verify(token, START)
    assert (found.user_id, found.groups, found.epoch) == (ALICE.id, ("admin", "user"), 3)


def test_anybody_can_verify_by_the_key_set(tmp_path: Path) -> None:
    tokens = made(tmp_path / "keys")
    keys = jwt.PyJWKSet.from_dict(dict(tokens.jwks()))
    token = tokens.issue(replace(ALICE, is_admin=False), START)
    kid = jwt.get_unverified_header(token)["kid"]
    key = next(key for key in keys.keys if key.key_id == kid)
    options = {"verify_exp": False, "verify_iat": False}
    said = jwt.decode(token, key.key, algorithms=["RS256"], audience="our users", options=options)
    assert said["group"] == ["user"]
    assert set(tokens.jwks()["keys"][0]) == {"kty", "n", "e", "kid", "use", "alg"}


def test_it_ends_after_a_day_by_the_clock_that_is_passed_in(tmp_path: Path) -> None:
    tokens = made(tmp_path / "keys")
    token = tokens.issue(ALICE, START)
    for _ in range(2):  # the second time from memory
        tokens.verify(token, START - timedelta(hours=1))
        tokens.verify(token, START + timedelta(seconds=DAY - 1))
        with pytest.raises(Unauthenticated):
            tokens.verify(token, START + timedelta(seconds=DAY))


def flipped(token: str) -> str:
    head, body, signature = token.split(".")
    return f"{head}.{body}.{('B' if signature[0] == 'A' else 'A') + signature[1:]}"


def unsigned(token: str) -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


def signed_with_the_public_key(token: str) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(
        claims, "x" * 64, algorithm="HS256", headers=jwt.get_unverified_header(token) | {"alg": "HS256"}
    )


@pytest.mark.parametrize(
    "spoil",
    [
        flipped,
        unsigned,
        signed_with_the_public_key,
        lambda _: "",
        lambda _: "a.b.c",
        lambda _: "\udc80.ü.x",
        lambda token: token + "x" * 10_000,
        lambda token: token[:-20],
    ],
)
def test_bad_tokens(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    tokens = made(tmp_path / "keys")
    token = tokens.issue(ALICE, START)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            tokens.verify(spoil(token), START)
    tokens.verify(token, START)


def test_tokens_for_others_or_by_others_are_bad(tmp_path: Path) -> None:
    ours = made(tmp_path / "keys")
    for other in (
        made(tmp_path / "keys", issuer="them"),
        made(tmp_path / "keys", audience="their users"),
        made(tmp_path / "other keys"),
    ):
        with pytest.raises(Unauthenticated):
            ours.verify(other.issue(ALICE, START), START)


def test_keys_are_nobodys_to_read(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o755)
    made(folder)
    (file,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    with pytest.raises(Misconfigured, match="can be read by others"):
        made(folder)


def test_the_next_start_finds_the_same_key(tmp_path: Path) -> None:
    token = made(tmp_path).issue(ALICE, START)
    assert made(tmp_path).verify(token, START).user_id == ALICE.id


def test_servers_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        servers = list(pool.map(lambda _: made(tmp_path / "keys"), range(4)))
    token = servers[0].issue(ALICE, START)
    for server in servers:
        server.verify(token, START)


def test_a_new_key_signs_and_the_old_one_stays_good(tmp_path: Path) -> None:
    tokens = made(tmp_path)
    old = tokens.issue(ALICE, START)
    (old_file,) = tmp_path.iterdir()
    add_key(tmp_path)
    os.utime(tmp_path, ns=(1, 1))  # as if time had passed: file systems round
    new = tokens.issue(ALICE, START)
    assert jwt.get_unverified_header(old)["kid"] != jwt.get_unverified_header(new)["kid"]
    assert [row["kid"] for row in tokens.jwks()["keys"]] == [
        jwt.get_unverified_header(token)["kid"] for token in (old, new)
    ]
    tokens.verify(old, START)
    tokens.verify(new, START)
    old_file.unlink()
    os.utime(tmp_path, ns=(2, 2))
    tokens.verify(new, START)
    with pytest.raises(Unauthenticated):
        tokens.verify(old, START)


@pytest.mark.parametrize("text", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_named(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "token-000001.pem"
    file.write_bytes(text)
    file.chmod(0o600)
    with pytest.raises(Misconfigured, match=r"token-000001\.pem"):
        made(tmp_path)


def test_a_bad_file_among_the_keys_signs_nobody_out_of_a_running_server(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    tokens = made(folder)
    token = tokens.issue(ALICE, START)
    (folder / "token-999999.pem").write_bytes(b"no key")
    assert tokens.verify(token, START).user_id == ALICE.id
    assert tokens.verify(tokens.issue(ALICE, START), START).user_id == ALICE.id
    with pytest.raises(Misconfigured):
        made(folder)


@pytest.mark.parametrize("what", ["being copied", "open to others", "a folder"])
def test_a_key_that_comes_in_two_steps_counts_once_it_is_whole(tmp_path: Path, what: str) -> None:
    """The folder does not change with its files: who copies a key or mends its rights changes them alone."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    tokens, other = made(here), made(elsewhere)
    old = tokens.issue(ALICE, START)
    (theirs,) = elsewhere.iterdir()
    file = here / "token-000002.pem"
    if what == "a folder":
        file.mkdir()  # an error of the machine, as a file of another owner is one
    else:
        file.write_bytes(b"" if what == "being copied" else theirs.read_bytes())
        file.chmod(0o644 if what == "open to others" else 0o600)
    os.utime(here, ns=(1, 1))  # as if time had passed: file systems round
    tokens.verify(old, START)
    if what == "a folder":
        file.chmod(0o700)
        tokens.verify(old, START)
        file.rmdir()
    file.write_bytes(theirs.read_bytes())
    file.chmod(0o600)
    os.utime(here, ns=(1, 1))
    tokens.verify(other.issue(ALICE, START), START)
    tokens.verify(old, START)
