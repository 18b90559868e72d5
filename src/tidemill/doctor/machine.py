"""What the doctor looks at on the server's own machine: folder, keys, guest, room, who else is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tidemill.actions.tokens import key_troubles
from tidemill.deployment import DATABASE, MARK, SERVER_LOCK
from tidemill.doctor.symptom import Symptom
from tidemill.guest.build import built
from tidemill.settings import OWN_FILE, Settings

GB = 10**9
ROOM_LEAST_GB = 2.0  # below this, disks and databases soon stop
SECRETS = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", "first-login.json", OWN_FILE)


def look_at_folder(settings: Settings, deployment: str | None) -> Iterator[Symptom]:
    """Rights, keys, whose it is, and room."""
    folder: Path = settings.data_dir
    if folder.stat().st_mode & 0o077:
        yield Symptom(
            "folderOpen",
            str(folder),
            "others than its owner may enter the data folder",
            f"chmod 700 {folder}",
        )
        for file in (folder / name for name in SECRETS):
            if file.exists() and file.stat().st_mode & 0o077:
                yield Symptom("fileOpen", str(file), "others than its owner may read it", f"chmod 600 {file}")
    if folder.stat().st_uid != os.geteuid() and os.geteuid() != 0:
        yield Symptom(
            "folderForeign",
            str(folder),
            "the data folder belongs to another user, so not all of it can be seen",
            "run this as the user who runs the server",
        )
    for trouble in key_troubles(folder / "keys"):
        yield Symptom(
            "tokenKey", str(folder / "keys"), trouble, "put the key back from a backup, or remove it"
        )
    yield from _look_at_mark(folder, deployment)
    yield from look_at_room("dataRoom", str(folder), shutil.disk_usage(folder).free / GB)


def look_at_room(code: str, folder: str, free_gb: float) -> Iterator[Symptom]:
    """Whether a disk is about to be full."""
    if free_gb < ROOM_LEAST_GB:
        yield Symptom(
            code,
            folder,
            f"{free_gb:.1f} GB are free on its disk",
            "terminate instances, remove what is not needed, or make the disk larger",
        )


def look_at_guest(settings: Settings) -> Iterator[Symptom]:
    """Whether there is what goes into every instance."""
    folder = settings.data_dir / "guest"
    if built(folder) is None:
        yield Symptom(
            "guestMissing",
            str(folder),
            "what goes into every instance is not built",
            "run `tidemill guest`; the server builds it as well when it starts",
        )


def holder_of(folder: Path) -> int | None:
    """The process that holds the data folder for itself; looked up without touching its lock."""
    try:
        lock = (folder / SERVER_LOCK).stat()
        locks = Path("/proc/locks").read_text("ascii").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    for line in locks:
        words = line.split()
        if "FLOCK" in words and "->" not in words and wanted in words:
            return int(words[words.index(wanted) - 1])
    return None


def listening(low: int, high: int) -> set[int]:
    """TCP ports of a range that anything on this machine listens on."""
    found: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for columns in map(str.split, lines):
            if columns[3] == "0A":
                found.add(int(columns[1].rpartition(":")[2], 16))
    return {port for port in found if low <= port <= high}


def _look_at_mark(folder: Path, deployment: str | None) -> Iterator[Symptom]:
    try:
        whose = (folder / MARK).read_text("utf-8").strip()
    except OSError:
        return
    if deployment is not None and whose not in {"", deployment}:
        yield Symptom(
            "foreignFolder",
            str(folder),
            f"it holds files of the deployment {whose!r}, and the database is of {deployment!r}: "
            "what no instance wants of disks/ and instances/ is left alone",
            f"restore that deployment's database; or, if nobody needs its disks, remove {folder / MARK}",
        )
