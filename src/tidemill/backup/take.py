"""A copy of a deployment, of one instant, while its server goes on.

The database is read in one transaction; nothing is held in memory but a part of a table. What an
instance has on its disks is not in it: that is the engine's and the data folder's.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tomllib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from tidemill.actions.first_login import FILE as FIRST_LOGIN
from tidemill.actions.instance_keys import SECRET
from tidemill.backup.archive import FORMAT, Manifest, Writer
from tidemill.clock import Clock
from tidemill.deployment import present_url
from tidemill.model.errors import Misconfigured
from tidemill.settings import OWN_FILE, Settings
from tidemill.store import backup, facts
from tidemill.version import VERSION

KEYS_LOOKS = 10


def back_up(settings: Settings, clock: Clock, config: Path | None, file: BinaryIO) -> Manifest:
    """Write a copy of the deployment into ``file``. Raises Misconfigured, Unavailable, OSError."""
    url = present_url(settings)
    made_at = clock.now()  # before the database is looked at: nothing that it holds is newer
    with backup.snapshot(url) as connection:
        revision = backup.revision(connection)
        tables = backup.tables_of(revision)
        writer = Writer(
            file,
            Manifest(
                format=FORMAT,
                version=VERSION,
                revision=revision,
                deployment=facts.get(connection, facts.DEPLOYMENT) or "",
                database=url.get_backend_name(),
                made_at=made_at,
                tables={table.name: backup.columns_of(table) for table in tables},
            ),
        )
        for name, content in _files(settings.data_dir, config):
            writer.add(name, content)
        for table in tables:
            writer.table(table.name, backup.read(connection, table))
        return writer.finish()


def _files(folder: Path, config: Path | None) -> Generator[tuple[str, bytes]]:
    own = config or folder / OWN_FILE
    with suppress(FileNotFoundError):
        content = own.read_bytes()
        try:
            tomllib.loads(content.decode())
        except ValueError:
            raise Misconfigured(
                f"{own} is being edited, or is not valid TOML; see to it and try again"
            ) from None
        yield OWN_FILE, content
    with suppress(FileNotFoundError):
        yield FIRST_LOGIN, (folder / FIRST_LOGIN).read_bytes()
    for name, content in sorted(_keys(folder / "keys").items()):
        yield f"keys/{name}", content


def _keys(folder: Path) -> dict[str, bytes]:
    """The keys as they were together at one instant, though one may be added or retired meanwhile."""
    for _ in range(KEYS_LOOKS):
        names = _names(folder)
        found: dict[str, bytes] = {}
        with suppress(FileNotFoundError):
            found = {name: (folder / name).read_bytes() for name in names}
        if found.keys() == names == _names(folder):
            return found
    raise Misconfigured(f"The token keys in {folder} change all the time; try again when they are at rest")


def _names(folder: Path) -> set[str]:
    """Raises OSError for a folder that cannot be read: a backup without keys is not to look whole."""
    with suppress(FileNotFoundError):
        return {name for name in os.listdir(folder) if name == SECRET or fnmatch(name, "token-*.pem")}
    return set()


@contextmanager
def standard_output() -> Generator[BinaryIO]:
    """Where a backup goes that is piped elsewhere. Raises Misconfigured for a terminal."""
    if sys.stdout.isatty():
        raise Misconfigured("A backup is not for a terminal; send it to a file, or give a file's name")
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise Misconfigured("Whoever was to take the backup went away; it is not whole") from None


@contextmanager
def private_file(path: Path) -> Generator[BinaryIO]:
    """A file that only its owner reads, and that has its name only once it is whole and on the disk.

    Until then it is called ``<name>.partial``. Raises Misconfigured for a name that is taken.
    """
    partial = path.with_name(f"{path.name}.partial")
    if os.path.lexists(path):
        raise Misconfigured(f"{path} is there already; nothing is written over, choose another name")
    try:
        descriptor = _alone(partial)
    except OSError as error:
        raise Misconfigured(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.rename(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _alone(partial: Path) -> int:
    """A new file that no other backup writes; one that a killed backup left is removed."""
    with suppress(FileNotFoundError):
        left = os.open(partial, os.O_RDWR)
        try:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()
        except BlockingIOError:
            raise Misconfigured(f"Another backup is being written to {partial}") from None
        finally:
            os.close(left)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor
