"""The folder with an instance's own files (keys, init script), which the guest sees read-only."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tidemill.model.observation import InstanceId

REVISION = "revision"


class Files:
    """The folders of all instances of one server, under ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "instances"

    def folder(self, id: InstanceId) -> Path:
        return self.root / id

    def write(self, id: InstanceId, files: Mapping[str, bytes], revision: int) -> None:
        """Make the folder hold exactly ``files``, each changed by one rename, unless it has later ones."""
        folder = self.folder(id)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        with _alone_in(folder):
            if _revision_of(folder) > revision:
                return
            # The revision goes first: whoever dies on the way tries again, and an older call is too late.
            for name, content in {REVISION: b"%d\n" % revision, **files}.items():
                file = folder / name
                if not file.is_file() or file.read_bytes() != content:
                    new = folder / f".{name}.new"
                    new.unlink(missing_ok=True)
                    new.touch(mode=0o600)
                    new.write_bytes(content)
                    new.replace(file)
            for file in folder.iterdir():
                if file.name not in {REVISION, *files}:
                    file.unlink()

    def remains(self, id: InstanceId) -> bool:
        """Whether something of ``id`` may be left: its folder goes last."""
        return self.folder(id).exists()

    def remove(self, id: InstanceId) -> None:
        if self.remains(id):
            shutil.rmtree(self.folder(id))


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _revision_of(folder: Path) -> int:
    """-1 for what never had one."""
    try:
        return int((folder / REVISION).read_text())
    except (FileNotFoundError, ValueError):
        return -1
