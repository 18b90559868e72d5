"""The folder with an instance's own files (keys, init script), which the guest sees read-only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tidemill.model.observation import InstanceId


class Files:
    """The folders of all instances of one server, under ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "instances"

    def folder(self, id: InstanceId) -> Path:
        return self._folder / id

    def write(self, id: InstanceId, files: Mapping[str, bytes]) -> None:
        """Make the folder hold exactly ``files``, each changed by one rename."""
        folder = self.folder(id)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, content in files.items():
            file = folder / name
            if not file.is_file() or file.read_bytes() != content:
                new = folder / f".{name}.new"
                new.unlink(missing_ok=True)
                new.touch(mode=0o600)
                new.write_bytes(content)
                new.replace(file)
        for file in folder.iterdir():
            if file.name not in files:
                file.unlink()

    def remains(self, id: InstanceId) -> bool:
        """Whether something of ``id`` may be left: its folder goes last."""
        return self.folder(id).exists()

    def remove(self, id: InstanceId) -> None:
        if self.remains(id):
            shutil.rmtree(self.folder(id))
