"""The processes of instances, found without the engine: it may have lost sight of some.

An engine that is killed in the middle of a start can come back without knowing that the container's
process runs: it calls the container exited, and removes it without its process. Whoever is in there goes
on, with the data disk and the accelerators that the next instance is given. Every process of an instance
sees the instance's own files at one place, and no other process does: by that it is found.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tidemill.drivers.contract import Unreachable
from tidemill.model.observation import InstanceId

END_SECONDS = 10.0  # how long killed processes may take to be gone
_CONTAINER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Process:
    """``container`` is the engine's id of where it runs, "" when that cannot be told."""

    pid: int
    instance: InstanceId
    container: str
    space: int  # its mount namespace; with the pid it is one process


class Processes:
    """Processes on this machine that have a folder below ``folder`` mounted at ``mount``."""

    def __init__(self, folder: Path, mount: str) -> None:
        self._folder = folder
        self._mount = mount

    async def astray(self, running: Container[str]) -> set[InstanceId]:
        """Instances that have processes in none of the containers that the engine says are running."""
        found = await asyncio.to_thread(lambda: list(self._all()))
        return {process.instance for process in found if process.container not in running}

    async def end(self, id: InstanceId, running: Container[str] = ()) -> None:
        """Kill what is of ``id`` and in none of the containers ``running``. Raises Unreachable."""
        loop = asyncio.get_running_loop()
        until = loop.time() + END_SECONDS
        while await asyncio.to_thread(self._kill, id, running):
            if loop.time() > until:
                raise Unreachable("Processes of the instance do not end")
            await asyncio.sleep(0.05)

    def _kill(self, id: InstanceId, running: Container[str]) -> bool:
        """Whether there was anything to kill."""
        found = [one for one in self._all() if one.instance == id and one.container not in running]
        for process in found:
            with suppress(OSError):  # it ended meanwhile
                handle = os.pidfd_open(process.pid)
                try:
                    is_still_it = _space(Path("/proc") / str(process.pid)) == process.space
                    if is_still_it:  # and nobody else who was given its number
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                finally:
                    os.close(handle)
        return bool(found)

    def _all(self) -> Iterator[Process]:
        place = _place(self._folder)
        known: dict[int, InstanceId] = {}  # by namespace: a container's processes share one
        for path in Path("/proc").iterdir():
            if place is None or not path.name.isdigit():
                continue
            with suppress(OSError):  # it ended meanwhile, or is not ours to look at
                space = _space(path)
                if space not in known:
                    known[space] = self._instance_in(path, place)
                if known[space]:
                    match = _CONTAINER.search((path / "cgroup").read_text())
                    yield Process(int(path.name), known[space], match[0] if match else "", space)

    def _instance_in(self, process: Path, place: tuple[str, str]) -> InstanceId:
        """Whose files ``process`` sees at the place where instances have them; "" for nobody's."""
        device, inside = place
        for mount in _mounts(process):
            if (mount.point, mount.device) == (self._mount, device) and mount.root.startswith(f"{inside}/"):
                return mount.root.removeprefix(f"{inside}/").removesuffix("//deleted")
        return ""


@dataclass(frozen=True, slots=True)
class _Mount:
    """A file system ``device``, of which ``root`` is seen at ``point``."""

    device: str
    root: str
    point: str


def _mounts(process: Path) -> Iterator[_Mount]:
    for line in (process / "mountinfo").read_text(errors="replace").splitlines():
        _, _, device, root, point, *_ = line.split(" ")
        yield _Mount(device, _plain(root), _plain(point))


def _plain(path: str) -> str:
    """Without the kernel's way to write blanks."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _place(folder: Path) -> tuple[str, str] | None:
    """The file system that ``folder`` is in and its path inside; None where there is no such folder."""
    if not folder.exists():
        return None
    path = folder.resolve()
    holders = [mount for mount in _mounts(Path("/proc/self")) if path.is_relative_to(mount.point)]
    holder = max(reversed(holders), key=lambda mount: len(mount.point))  # the last one covers others
    inside = Path(holder.root) / path.relative_to(holder.point)
    return holder.device, str(inside)


def _space(process: Path) -> int:
    return os.stat(process / "ns" / "mnt").st_ino
