"""One instance as a driver would make it, and a person at the end of a real OpenSSH client."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.guest.host_key import known_hosts_line
from tidemill.guest.installed import InstalledGuest

ENV = {
    "PLAIN": "value",
    "QUOTED": """ two  spaces, 'single', "double", $HOME and `id` """,
    "LINES": "first\nsecond\n",
    # names that a script could be using for itself
    "home": "/not/ours",
    "name": "not ours",
    "run": "not ours",
    "PATH": "/opt/tools/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}


SECONDS = 40  # the most that anything here is waited for: others may have the machine


def wait_until(holds: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def docker(*arguments: str, input: bytes | None = None) -> str:
    done = subprocess.run(
        ["docker", *arguments], input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    said = done.stdout.decode().strip()
    assert done.returncode == 0, said
    return said


@dataclass(frozen=True)
class Person:
    """Someone with a key."""

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


@dataclass
class Instance:
    """A container with the guest in it; its files lie in ``folder``."""

    guest: InstalledGuest
    image: str
    folder: Path
    person: Person
    init_script: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: ENV)
    options: Sequence[str] = ()
    name: str = field(default_factory=lambda: f"tidemill-test-guest-{uuid.uuid4().hex[:12]}")
    host_key: bytes = field(default_factory=lambda: os.urandom(32))
    port: int = 0

    def __enter__(self) -> Instance:
        self.files.mkdir(parents=True)
        try:
            self.give(self.person.public_line)
            arguments = ["--name", self.name, "--user", "0", "--security-opt", "no-new-privileges"]
            for capability in ("MKNOD", "NET_RAW", "AUDIT_WRITE"):
                arguments += ["--cap-drop", capability]
            for name, value in self.env.items():
                arguments += ["--env", f"{name}={value}"]
            docker(
                "create", *arguments, "--pids-limit", "200", "--publish", "127.0.0.1::22",
                "--volume", f"{self.guest.folder}:{self.guest.mount}:ro",
                "--volume", f"{self.files}:{self.guest.files_mount}:ro",
                "--entrypoint", self.guest.command[0], *self.options, self.image, *self.guest.command[1:],
            )  # fmt: skip
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["docker", "rm", "--force", "--volumes", self.name], capture_output=True, check=False)

    @property
    def files(self) -> Path:
        return self.folder / self.name / "files"

    @property
    def known_hosts(self) -> Path:
        return self.folder / self.name / "known_hosts"

    def give(self, *authorized_keys: str) -> None:
        """Write the instance's files as a driver does."""
        files = self.guest.files(
            authorized_keys=authorized_keys, host_key=self.host_key, init_script=self.init_script
        )
        for name, content in files.items():
            new = self.files / f".{name}.new"
            new.write_bytes(content)
            new.chmod(0o600)
            new.rename(self.files / name)

    def start(self) -> None:
        docker("start", self.name)
        self.port = int(docker("port", self.name, "22/tcp").splitlines()[0].rsplit(":", 1)[1])
        self.known_hosts.write_text(known_hosts_line(self.host_key, "127.0.0.1", self.port) + "\n")
        wait_until(lambda: self.answers() or not self.runs(), "the ssh server answers")
        assert self.answers(), subprocess.run(
            ["docker", "logs", self.name], capture_output=True, check=False
        ).stderr.decode()

    def stop(self) -> float:
        """Stop it as ``docker stop`` does, but leave it its time; return how many seconds that took."""
        before = time.monotonic()
        docker("stop", "--time", str(SECONDS), self.name)
        return time.monotonic() - before

    def runs(self) -> bool:
        return docker("inspect", "--format", "{{.State.Running}}", self.name) == "true"

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def options_for(self, person: Person | None = None) -> list[str]:
        """What ssh, scp and sftp are told, but for the port."""
        return [
            "-F", "/dev/null", "-i", str((person or self.person).key),
            "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=yes",
            "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR",
        ]  # fmt: skip

    def ssh_command(self, *arguments: str, person: Person | None = None, user: str = "root") -> list[str]:
        return ["ssh", *self.options_for(person), "-p", str(self.port), f"{user}@127.0.0.1", *arguments]

    def ssh(
        self, *arguments: str, input: bytes = b"", person: Person | None = None, user: str = "root"
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.ssh_command(*arguments, person=person, user=user),
            input=input,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )

    def say(self, command: str, **options: object) -> str:
        """What a command that succeeds prints over ssh."""
        done = self.ssh(command, **options)  # type: ignore[arg-type]
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout.decode()

    def read(self, path: str) -> str | None:
        """A file of the system disk, read without the ssh server; None when there is none."""
        done = subprocess.run(
            ["docker", "exec", self.name, "/.tidemill/bin/busybox", "cat", path],
            capture_output=True,
            check=False,
        )
        return done.stdout.decode() if done.returncode == 0 else None

    def init_ended(self) -> int:
        wait_until(lambda: self.read(self.guest.init_exit_path) is not None, "the init script has ended")
        return int(self.read(self.guest.init_exit_path) or "")


class Terminal:
    """An ssh client on a terminal of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._ours, theirs = os.openpty()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
                env=os.environ | {"TERM": "xterm"},
            )
        finally:
            os.close(theirs)
        self.seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def expect(self, pattern: str) -> str:
        """Wait for what the pattern matches, and forget all up to its end."""
        while not (found := re.search(pattern, self.seen)):
            assert self._more(), f"ended without {pattern!r}: {self.seen!r}"
        self.seen = self.seen[found.end() :]
        return found[0]

    def returncode(self) -> int:
        """Wait for its end, and return its exit status; what it still said is in ``seen``."""
        while self._more():
            pass
        return self._process.wait(timeout=SECONDS)

    def _more(self) -> bool:
        """Wait for more output; False at its end."""
        readable, _, _ = select.select([self._ours], [], [], SECONDS)
        assert readable, f"nothing more after {self.seen!r}"
        try:
            self.seen += re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", os.read(self._ours, 65536).decode())
        except OSError:
            return False
        return True
