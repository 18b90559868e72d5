"""Reads a small file of an instance while it runs, whatever its tenant makes of the path meanwhile.

The engine's own way, its archive call, is not for running instances: to answer, it mounts their
volumes once more, from the host and by name, and many versions can be raced by a tenant who swaps
a folder for a symbolic link into mounting over the host's own files (CVE-2026-42306). Here nothing
is mounted, and no link is followed on the way.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import PurePosixPath


def read(pid: int, path: str, most: int) -> bytes:
    """Up to ``most`` bytes of ``path`` as the process ``pid`` sees it.

    Raises OSError: no such process or file, a symbolic link on the way, not a plain file, or this
    process may not look into that one (only root may).
    """
    _, *folders, name = PurePosixPath(path).parts
    with ExitStack() as opened:

        def enter(folder: str, flags: int, beside: int | None = None) -> int:
            descriptor = os.open(folder, flags | os.O_CLOEXEC, dir_fd=beside)
            opened.callback(os.close, descriptor)
            return descriptor

        place = enter(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY)
        for folder in folders:
            place = enter(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, place)
        # What it is is seen before it is opened for reading: a pipe or a device is never opened.
        if not stat.S_ISREG(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
            raise OSError(f"{path} is not a plain file")
        file = enter(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, place)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(f"{path} is not a plain file")
        return os.read(file, most)
