"""Where this command keeps what it knows, and where an instance keeps what it knows of its server."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tidemill.cli.failures import Failure
from tidemill.surroundings import INSTANCE_FILE


@dataclass(frozen=True, slots=True)
class Places:
    """``home`` holds the servers' names and the credentials; what is in ``cache`` may be lost at any time."""

    home: Path
    cache: Path
    instance: Path = INSTANCE_FILE

    @property
    def config(self) -> Path:
        return self.home / "config.toml"

    @property
    def credentials(self) -> Path:
        return self.home / "credentials.json"

    @property
    def ssh(self) -> Path:
        """The folder of what ssh is given: a key of this machine's own, host keys, names."""
        return self.home / "ssh"

    @property
    def known_hosts(self) -> Path:
        return self.ssh / "known_hosts"

    @classmethod
    def of(cls, environ: Mapping[str, str] | None = None) -> Places:
        """``TIDEMILL_HOME``, else the folders that XDG names, else those below the home folder."""
        environ = os.environ if environ is None else environ
        given = environ.get("TIDEMILL_HOME")
        home = Path(given) if given else _xdg(environ, "XDG_CONFIG_HOME", ".config") / "tidemill"
        return cls(home, _xdg(environ, "XDG_CACHE_HOME", ".cache") / "tidemill")


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    """XDG has relative paths ignored."""
    named = Path(environ.get(variable, ""))
    return named if named.is_absolute() else Path(environ.get("HOME") or Path.home()) / below_home


def private_folder(folder: Path) -> None:
    """Make ``folder`` for its owner alone, where it is not there.

    Raises Failure where something else is there, or where nothing can be; OSError for all else.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except (FileExistsError, FileNotFoundError) as error:
        raise Failure(
            f"{folder} can be no folder: {error.strerror}",
            code="noFolder",
            next="TIDEMILL_HOME says another place than ~/.config/tidemill",
        ) from None


def write_whole(path: Path, text: str) -> None:
    """Write ``path`` for its owner alone; it has the old text or the new, whatever happens."""
    private_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def alone(path: Path) -> Generator[None]:
    """One process at a time changes ``path``: two that do so at once lose nothing of each other's."""
    private_folder(path.parent)
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
