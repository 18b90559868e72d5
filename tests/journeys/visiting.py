"""A person with a key at the end of real OpenSSH clients."""

from __future__ import annotations

import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.journeys.running import Tenant, free_port
from tests.journeys.waiting import until

SECONDS = 30


@dataclass(frozen=True)
class Person:
    """Someone with an ed25519 key in a folder of their own."""

    key: Path

    @classmethod
    def with_new_key(cls, folder: Path) -> Person:
        folder.mkdir(parents=True, exist_ok=True)
        key = folder / uuid.uuid4().hex
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a person", "-f", key], check=True
        )
        return cls(key)

    @property
    def public_line(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    def at(self, tenant: Tenant, id: str) -> Visit:
        """The way into an instance, as the API shows it now."""
        return self.to(tenant.get(id))

    def to(self, row: dict[str, Any]) -> Visit:
        """The way into an instance, as its row of the list shows it."""
        spec, runtime = row["instanceSpecInfo"], row["instanceRuntimeInfo"]
        address = spec["regionInfo"]["sshAddress"]
        port = next(each["nodePort"] for each in spec["nodePorts"] if each["port"] == 22)
        known_hosts = self.key.parent / f"known_hosts-{uuid.uuid4().hex}"
        known_hosts.write_text(f"[{address}]:{port} {runtime['sshHostKey']}\n")
        return Visit(self, row["instanceMetadata"]["instanceUsername"], address, port, known_hosts)


@dataclass(frozen=True)
class Visit:
    """One person's way into one instance; the host key must be the one that the API named."""

    person: Person
    user: str
    address: str
    port: int
    known_hosts: Path

    @property
    def options(self) -> list[str]:
        return [
            "-F", "/dev/null", "-i", str(self.person.key), "-o", f"UserKnownHostsFile={self.known_hosts}",
            "-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes",
            "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
            "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10",
        ]  # fmt: skip

    def command(self, *words: str) -> list[str]:
        return ["ssh", *self.options, "-p", str(self.port), f"{self.user}@{self.address}", *words]

    def ssh(
        self, *words: str, input: bytes = b"", seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(*words), input=input, capture_output=True, timeout=seconds, check=False
        )

    def say(self, command: str, seconds: float = SECONDS) -> str:
        """What a command that must succeed prints."""
        done = self.ssh(command, seconds=seconds)
        assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
        return done.stdout.decode()

    def fails(self, command: str, seconds: float = SECONDS) -> str:
        """What a command that must fail inside (not for want of a connection) prints in all."""
        done = self.ssh(command, seconds=seconds)
        assert done.returncode not in (0, 255), (command, done.returncode, done.stdout, done.stderr)
        return (done.stdout + done.stderr).decode()

    def admitted(self) -> bool:
        """Whether the key opens the door. Fails on anything but a yes or the server's own no."""
        done = self.ssh("true")
        if done.returncode == 0:
            return True
        assert b"Permission denied (publickey)" in done.stderr, (done.returncode, done.stderr)
        return False

    def copy(self, source: str | Path, target: str | Path) -> None:
        """scp; a path inside is written ``:path``."""
        words = [
            f"{self.user}@{self.address}{path}" if str(path).startswith(":") else str(path)
            for path in (source, target)
        ]
        self._must("scp", *self.options, "-P", str(self.port), *words)

    def sftp(self, batch: str) -> str:
        return self._must(
            "sftp", *self.options, "-P", str(self.port), "-b", "-", f"{self.user}@{self.address}", input=batch
        )

    def _must(self, *command: str, input: str = "") -> str:
        done = subprocess.run(
            command, input=input, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, (command[0], done.returncode, done.stdout, done.stderr)
        return done.stdout

    @contextmanager
    def forwarded(self, port: int) -> Iterator[int]:
        """``ssh -L``: a port of this machine that leads to ``port`` of the instance's loopback."""
        here = free_port()
        with subprocess.Popen(
            self.command("-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{here}:127.0.0.1:{port}"),
            stdin=subprocess.DEVNULL,
        ) as client:
            try:
                until("the tunnel stands", lambda: _listens(here), SECONDS)
                yield here
            finally:
                client.terminate()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
