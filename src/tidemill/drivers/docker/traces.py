"""What engine and machine keep of a deployment beside the containers that a listing shows.

Whoever keeps accounts of instances compares: what belongs to none was left by a crash, or put there by a
stranger's hand. Files are ours when they are named after an instance and the data folder is not marked as
another deployment's: a database that was lost and begun anew must not take the users' disks with it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiodocker.exceptions import DockerError

from tidemill.drivers.contract import EngineReport, Refused, Trace
from tidemill.drivers.docker import spec
from tidemill.drivers.docker.disks import GB
from tidemill.drivers.docker.engine import Engine
from tidemill.drivers.docker.networks import Networks
from tidemill.model.observation import InstanceId

CONTAINER, NETWORK, IMAGE = "container", "network", "system image"
DISK, MOUNT, LOOP, FOLDER = "disk", "mount", "loop device", "folder"
MARK = "deployment"  # the file of a data folder that says whose it is

_OURS = re.compile(r"notebook-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DETACH = 0x4C01  # LOOP_CLR_FD


class Kept:
    """What is kept of one deployment. ``remove`` removes an instance with all that is its own."""

    def __init__(
        self,
        *,
        engine: Engine,
        networks: Networks,
        deployment: str,
        data_dir: Path,
        remove: Callable[[InstanceId], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._networks = networks
        self._deployment = deployment
        self._data_dir = data_dir
        self._remove = remove

    async def all(self) -> list[Trace]:
        """Everything, in use or not. Raises DockerError, Unreachable."""
        rows = await self._engine.list_containers({spec.DEPLOYMENT: self._deployment})
        found = [_stranger(row) for row in rows if spec.read_row(row, self._deployment) is None]
        for row in await self._engine.list_networks():
            labels = _labels(row)
            if labels.get(spec.DEPLOYMENT) == self._deployment:
                found.append(Trace(NETWORK, row["Name"], tenant=labels.get(spec.TENANT, "")))
        repository = spec.system_image(self._deployment, "")
        for row in await self._engine.list_images(reference=[f"{repository}*"]):
            for tag in row.get("RepoTags") or ():
                id = str(tag).removeprefix(repository).partition(":")[0]
                if str(tag).startswith(repository):
                    found.append(Trace(IMAGE, tag, id))
        ours = [f"{spec.DEPLOYMENT}={self._deployment}"]
        rows = await self._engine.list_images(label=ours, dangling=["true"])
        found += [Trace(IMAGE, row["Id"], _labels(row).get(spec.INSTANCE, "")) for row in rows]
        return found + await asyncio.to_thread(lambda: list(self._files()))

    def shows(self, kind: str, name: str) -> bool:
        """Whether it would be among all of them: what is named by a path lies in this data folder."""
        return not name.startswith("/") or Path(name).is_relative_to(self._data_dir)

    async def report(self) -> EngineReport:
        """How the engine is. Raises DockerError, Unreachable."""
        info = await self._engine.info()
        folder = str(info.get("DockerRootDir") or "")
        return EngineReport(
            version=f"Docker {info.get('ServerVersion')}",
            at=_instant(str(info.get("SystemTime") or "")),
            folder=folder,
            free_gb=await asyncio.to_thread(_free_gb, folder) if self._engine.is_local else None,
        )

    async def erase(self, trace: Trace) -> None:
        """Remove it. Raises DockerError and the contract's errors."""
        if trace.kind == NETWORK:
            await self._erase_network(trace)
        elif trace.kind == CONTAINER:
            await self._erase_container(trace)
        else:
            await self._remove(trace.instance)
            if trace.kind == LOOP:
                await asyncio.to_thread(_detach, trace.name)

    async def _erase_network(self, trace: Trace) -> None:
        if trace.tenant and trace.name == spec.network_name(self._deployment, trace.tenant):
            stays = await self._networks.remove_if_empty(trace.tenant)
        else:
            stays = await self._networks.remove(trace.name)
        if stays:
            raise Refused(f"The container engine keeps the network {trace.name}: {stays}")

    async def _erase_container(self, trace: Trace) -> None:
        try:
            await self._engine.remove_container(trace.name)
        except DockerError as error:
            if error.status not in {404, 409}:  # 409: it is being removed already
                raise

    def _files(self) -> Iterator[Trace]:
        if not self.is_ours:
            return
        for file in _inside(self._data_dir / "disks"):
            if file.suffix in {".img", ".new"} and _OURS.fullmatch(file.stem):
                yield Trace(DISK, str(file), file.stem)
        for kind, folder in ((MOUNT, "mounts"), (FOLDER, "instances")):
            for entry in _inside(self._data_dir / folder):
                if _OURS.fullmatch(entry.name):
                    yield Trace(kind, str(entry), entry.name)
        for file in {file for _, file in _loops()}:
            if file.parent == self._data_dir.resolve() / "disks" and _OURS.fullmatch(file.stem):
                yield Trace(LOOP, str(self._data_dir / "disks" / file.name), file.stem)

    @property
    def is_ours(self) -> bool:
        """Whether the data folder is this deployment's; one without a mark belongs to whoever uses it."""
        try:
            mark = (self._data_dir / MARK).read_text("utf-8").strip()
        except FileNotFoundError:
            return True
        return mark in {"", self._deployment}


def _stranger(row: dict[str, Any]) -> Trace:
    """A container that bears our label and is no instance as it stands: renamed, or made by hand."""
    labels = _labels(row)
    name = next((str(name).removeprefix("/") for name in row.get("Names") or ()), str(row["Id"]))
    return Trace(CONTAINER, name, labels.get(spec.INSTANCE, ""), labels.get(spec.TENANT, ""))


def _labels(row: dict[str, Any]) -> dict[str, str]:
    return row.get("Labels") or {}


def _instant(said: str) -> datetime | None:
    """The engine's clock; it tells nanoseconds, and any offset."""
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", said)).astimezone(UTC)
    except ValueError:
        return None


def _free_gb(folder: str) -> float | None:
    try:
        return shutil.disk_usage(folder).free / GB
    except OSError:
        return None


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _detach(name: str) -> None:
    """Let the loop devices go that stand on a file."""
    for device, file in _loops():
        if file == Path(name).resolve():
            descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, _DETACH)
            finally:
                os.close(descriptor)


def _loops() -> Iterator[tuple[str, Path]]:
    """Loop devices and what they stand on, a file that was removed meanwhile too."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = backing.read_text().rstrip("\n")
        except OSError:  # let go a moment ago
            continue
        yield f"/dev/{backing.parent.parent.name}", Path(file.removesuffix(" (deleted)"))
