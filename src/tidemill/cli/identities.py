"""The ssh keys of which this machine holds the private part, and the one that it makes when none will do.

A private key never leaves its file: what is read here are files that end in ``.pub``, and the agent's answer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tidemill.cli.failures import Exit, Failure
from tidemill.cli.places import Places, alone, write_whole

if TYPE_CHECKING:
    from tidemill.client import Client

OWN = "id_ed25519"
USUAL = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk")  # in ~/.ssh
AGENTS_PATIENCE = 5  # seconds
TO_INSTALL = (
    "Install OpenSSH's client: apt install openssh-client (Debian, Ubuntu), "
    "dnf install openssh-clients (Fedora, RHEL), apk add openssh-client (Alpine)"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """``line`` is the public key as in a ``.pub`` file. ``file`` is what ssh takes as IdentityFile."""

    line: str
    file: Path
    is_in_agent: bool = False

    @property
    def body(self) -> str:
        """What makes it this key: its kind and itself, without the comment."""
        return body(self.line)


def body(line: str) -> str:
    return " ".join(line.split()[:2])


def program(name: str) -> str:
    """Where one of OpenSSH's programs is. Raises Failure, saying what to install."""
    found = shutil.which(name)
    if found is None:
        raise Failure(f"There is no {name} on this machine", code="noOpenSsh", next=TO_INSTALL)
    return found


def of_this_machine(places: Places, environ: Mapping[str, str] | None = None) -> list[Identity]:
    """Those that can be used from here: this command's own first, then the user's files, then the agent's."""
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or Path.home()) / ".ssh"
    files = [places.ssh / OWN, *(home / name for name in USUAL)]
    found = [each for each in map(_from_file, files) if each is not None]
    found += [
        Identity(line, places.ssh / f"agent-{hashlib.sha256(body(line).encode()).hexdigest()[:16]}.pub", True)
        for line in _of_agent(environ)
    ]
    return list({each.body: each for each in reversed(found)}.values())[::-1]


def _from_file(private: Path) -> Identity | None:
    """A pair of files; None where one of them is missing or cannot be read."""
    try:
        text = private.with_name(f"{private.name}.pub").read_text("utf-8").strip()
        readable = os.access(private, os.R_OK)
    except (OSError, UnicodeDecodeError):
        return None
    return Identity(text, private) if readable and _is_public(text) else None


def _of_agent(environ: Mapping[str, str]) -> list[str]:
    if not environ.get("SSH_AUTH_SOCK") or shutil.which("ssh-add") is None:
        return []
    try:
        done = subprocess.run(
            ["ssh-add", "-L"],
            capture_output=True,
            text=True,
            check=False,
            timeout=AGENTS_PATIENCE,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return []
    return [line for line in done.stdout.splitlines() if _is_public(line)] if done.returncode == 0 else []


def _is_public(text: str) -> bool:
    kind, _, rest = text.partition(" ")
    return text.isprintable() and "-" in kind and bool(rest.strip())


def ready(identity: Identity) -> Path:
    """The file to give to ssh; for a key of the agent that is its public part, by which ssh asks for it."""
    if identity.is_in_agent and not identity.file.exists():
        write_whole(identity.file, identity.line + "\n")
    return identity.file


def made(places: Places) -> Identity:
    """This command's own key, made where there is none. Raises Failure where OpenSSH is not installed."""
    import platform
    import tempfile

    private = places.ssh / OWN
    with alone(private):
        found = _from_file(private)
        if found is not None:
            return found
        with tempfile.TemporaryDirectory(dir=private.parent) as beside:
            new = Path(beside) / OWN
            comment = f"tidemill on {platform.node() or 'a machine'}"
            _must(program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(new))
            new.with_suffix(".pub").replace(private.with_suffix(".pub"))
            new.replace(private)
    found = _from_file(private)
    if found is None:
        raise Failure(f"{private} was made and cannot be read", code="badKey")
    return found


def _must(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Failure(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}", code="badKey")


def matching(here: Iterable[Identity], registered: Iterable[str]) -> list[Identity]:
    """Those of ``here`` that are among the account's public keys."""
    known = {body(line) for line in registered}
    return [each for each in here if each.body in known]


def admitted(client: Client, places: Places) -> tuple[list[Path], bool]:
    """Files of keys that the account has and that can be used from here; whether one was only now added.

    Where there is none, this machine's own key is made and added, with a word. Raises Failure where an API
    key is in use, which may not add keys, and what the client raises.
    """
    from tidemill.client.errors import Conflict, Forbidden

    registered = [key.publicKey for key in client.account.ssh_keys()]
    found = matching(of_this_machine(places), registered)
    if found:
        return [ready(each) for each in found], False
    own = made(places)
    try:
        client.account.add_ssh_key(own.line)
    except Conflict:  # another command was faster
        return [own.file], True
    except Forbidden as error:
        raise Failure(
            f"The account has no ssh key of this machine, and one cannot be added: {error}",
            exit=Exit.FORBIDDEN,
            code=error.code,
            next=f"Log in with a password (tidemill login) and try again, or have this key added: {own.line}",
        ) from None
    typer.echo(f"An ssh key of this machine was added to the account: {own.file}", err=True)
    return [own.file], True
