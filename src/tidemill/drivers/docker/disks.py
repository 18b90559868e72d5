"""Data disks: a file of exactly the size that was asked for, with ext4 in it, loop-mounted.

The whole size is taken from the host's disk when the disk is made, so that tenants can never fill
the host by writing to what they were given. The file gets its name only once the file system in it
is whole: what a crash left half-made has another name and is made again, and a disk that bears its
name is never formatted again. Instances get a folder inside the mounted disk, not the mount point,
so that a disk that is not mounted can never be mistaken for an empty one.

A disk is checked and mounted by one at a time and never while anybody has it: what a killed server
began goes on without it, and a mount that was undone on the host lives on in its container.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tidemill.drivers.contract import NoRoom, Refused, Unreachable
from tidemill.model.observation import InstanceId

GB = 10**9
SPARE = 1 * GB  # never given out, so that the host can go on working
UNMOUNT_SECONDS = 10.0  # how long a mount may stay busy after its container is gone
FREE_SECONDS = 3.0  # how long a loop device may stay after its mount
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Disks:
    """Data disks of the instances of one server, under ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        self._files = data_dir / "disks"
        self._mounts = data_dir / "mounts"
        self._reserving = asyncio.Lock()

    async def ensure(self, id: InstanceId, size_gb: int) -> Path:
        """Make and mount the disk of ``id``; the folder on it that the instance gets.

        A disk that is there already keeps its size. Raises NoRoom, Refused (not root, a tool is
        missing, the disk is damaged), Unreachable (somebody has it, the kernel would not mount it now).
        """
        mount = self._mounts / id
        if not await self.is_mounted(id):
            if os.geteuid() != 0:
                raise Refused(
                    "Data disks need the server to run as root; launch without a data disk, "
                    "or ask the operator to run it as root"
                )
            file = self._files / f"{id}.img"
            await asyncio.to_thread(self._make_folders, mount)
            is_there = await asyncio.to_thread(file.exists)
            if not is_there:
                await self._make(file, size_gb)
            with _alone(file) as held:
                if is_there:
                    await self._check(file, held)
                await self._mount(file, mount, held)
        folder = mount / "data"
        await asyncio.to_thread(folder.mkdir, mode=0o755, exist_ok=True)
        return folder

    async def is_mounted(self, id: InstanceId) -> bool:
        return await asyncio.to_thread(os.path.ismount, self._mounts / id)

    async def remove(self, id: InstanceId) -> None:
        """Unmount and remove the disk of ``id``, half-made ones too. None there is success."""
        mount = self._mounts / id
        await self._unmount(mount)
        await asyncio.to_thread(self._unlink, id, mount)

    def held_gb(self) -> int:
        """What all disks together hold of the host's disk, in GB."""
        try:
            return sum(file.stat().st_size for file in self._files.glob("*.img")) // GB
        except OSError:
            return 0

    async def _make(self, file: Path, size_gb: int) -> None:
        half_made = file.with_suffix(".new")
        size = size_gb * GB
        async with self._reserving:  # two at once must not count on the same free space
            await asyncio.to_thread(_reserve, half_made, size)
        try:
            # Nothing is left for the kernel to zero once it is mounted: that gives reserved blocks back.
            options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
            code, said = await _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, str(half_made))
            if code != 0:
                raise Refused(f"The data disk could not be made: {said}")
            await asyncio.to_thread(_publish, half_made, file)
        except BaseException:
            with suppress(OSError):
                half_made.unlink()
            raise

    async def _check(self, file: Path, held: int) -> None:
        """What the kernel would replay or repair after a power cut, done before mounting."""
        loop = asyncio.get_running_loop()
        until = loop.time() + FREE_SECONDS
        while await asyncio.to_thread(_has_a_device, file):  # it goes a moment after its last mount
            if loop.time() > until:
                raise Unreachable("The data disk is still in use on the machine")
            await asyncio.sleep(0.1)
        code, said = await _run("e2fsck", "-p", str(file), keep=held)
        if code & ~0b11 != 0:  # 1: repaired; 2: repaired, and a mounted one would need a reboot
            raise Refused(f"The data disk is damaged and could not be repaired: {said}")

    async def _mount(self, file: Path, mount: Path, held: int) -> None:
        words = ("-t", "ext4", "-o", "loop,nodev", str(file), str(mount))
        code, said = await _run("mount", *words, keep=held)
        if code != 0 and not await asyncio.to_thread(os.path.ismount, mount):
            raise Unreachable(f"The data disk could not be mounted: {said}")

    async def _unmount(self, mount: Path) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + UNMOUNT_SECONDS
        while await asyncio.to_thread(os.path.ismount, mount):
            code, said = await _run("umount", str(mount))  # detaches the loop device as well
            if code != 0 and loop.time() > until:
                raise Unreachable(f"The data disk is still in use and could not be removed: {said}")
            if code != 0:
                await asyncio.sleep(0.1)

    def _make_folders(self, mount: Path) -> None:
        for folder in (self._files, self._mounts):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mount.mkdir(mode=0o700, exist_ok=True)

    def _unlink(self, id: InstanceId, mount: Path) -> None:
        for file in (self._files / f"{id}.img", self._files / f"{id}.new"):
            file.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            mount.rmdir()


def _reserve(file: Path, size: int) -> None:
    """Make ``file`` anew with all its blocks taken from the disk. Raises NoRoom."""
    file.unlink(missing_ok=True)
    room = os.statvfs(file.parent)
    free = room.f_bavail * room.f_frsize - SPARE
    message = f"The machine has {max(0, free) // GB} GB left for data disks, {size // GB} GB were asked for"
    if free < size:
        raise NoRoom(message)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise NoRoom(message) from error
    finally:
        os.close(descriptor)


def _publish(half_made: Path, file: Path) -> None:
    """Give a whole disk its name, and have both survive a power cut."""
    descriptor = os.open(half_made, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    half_made.rename(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _alone(file: Path) -> Generator[int]:
    """Nobody else checks or mounts ``file`` while the block runs, or a tool that has the descriptor does.

    Raises Unreachable when somebody is at it.
    """
    held = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield held
    except BlockingIOError:
        raise Unreachable("The data disk is still being checked or mounted") from None
    finally:
        os.close(held)


def _has_a_device(file: Path) -> bool:
    """Whether a loop device stands on ``file``: then it is mounted somewhere, in a container perhaps."""
    name = os.path.realpath(file)
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # it went meanwhile
            if device.read_text().rstrip("\n") == name:
                return True
    return False


async def _run(program: str, *arguments: str, keep: int | None = None) -> tuple[int, str]:
    """Exit code and last words of a tool, which has the descriptor ``keep`` as long as it runs.

    Raises Refused when the machine has no such tool.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": _PATH, "LC_ALL": "C"},
            pass_fds=() if keep is None else (keep,),
        )
    except FileNotFoundError:
        raise Refused(
            f"The machine has no {program}; its operator should install e2fsprogs and mount"
        ) from None
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:  # cancelled
            process.kill()
    return process.returncode or 0, output.decode("utf-8", "replace").strip()[-500:]
