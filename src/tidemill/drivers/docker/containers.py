"""What is done to one container: create, start, stop, remove, and give it another shape.

A container outlives many starts of its instance, and its name says which start it is in. Between
being an older start and being ``n`` it is called ``n.starting``: so the end of the older start is
never taken for the end of ``n``, wherever a crash comes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from aiodocker.exceptions import DockerError

from tidemill.drivers.contract import Guest, Unreachable, Workload
from tidemill.drivers.docker import spec
from tidemill.drivers.docker.disks import Disks
from tidemill.drivers.docker.engine import Engine
from tidemill.drivers.docker.files import Files
from tidemill.drivers.docker.networks import Networks
from tidemill.drivers.docker.spec import Found
from tidemill.model.observation import InstanceId

_LOST = re.compile(r"task [0-9a-f]+: already exists")
REMOVAL_SECONDS = 20.0  # how long a removal that somebody else began is waited for


class Containers:
    """The containers of one deployment. Raises DockerError and the contract's errors."""

    def __init__(
        self,
        *,
        engine: Engine,
        networks: Networks,
        disks: Disks,
        files: Files,
        guest: Guest,
        deployment: str,
        publish_address: str,
        stop_grace: float,
    ) -> None:
        self._engine = engine
        self._networks = networks
        self._disks = disks
        self._files = files
        self._guest = guest
        self._deployment = deployment
        self._publish_address = publish_address
        self._stop_grace = stop_grace
        self._lost: set[str] = set()

    async def all(self) -> list[Found]:
        return self._read(await self._engine.list_containers({spec.DEPLOYMENT: self._deployment}))

    async def of(self, id: InstanceId) -> list[Found]:
        """The containers of one instance, newest start last; mostly one, or none."""
        labels = {spec.DEPLOYMENT: self._deployment, spec.INSTANCE: id}
        return self._read(await self._engine.list_containers(labels))

    async def create(
        self, workload: Workload, image: str | None = None, *, volumes_from: str | None = None
    ) -> str | None:
        """A container for ``workload.start``; None when the engine does not have its image."""
        async with self._with_disk(workload) as data_disk:
            config = spec.container_config(
                workload,
                deployment=self._deployment,
                guest=self._guest,
                files=self._files.folder(workload.id),
                data_disk=data_disk,
                publish_address=self._publish_address,
                stop_grace=self._stop_grace,
                image=image,
                volumes_from=volumes_from,
            )
            try:
                return await self._engine.create_container(self._name(workload), config)
            except DockerError as error:
                if error.status == 404 and image is None and "no such image" in error.message.lower():
                    return None
                raise

    async def start(self, container: str, workload: Workload) -> None:
        """Start it as it is; its data disk is mounted and its network is there."""
        async with self._with_disk(workload):
            try:
                await self._engine.start_container(container)
            except DockerError as error:
                if _LOST.search(error.message):
                    self._lost.add(container)
                    raise Unreachable(
                        "The engine lost sight of the container; another takes its place"
                    ) from error
                if not _says_no_network(error):
                    raise
                await self._reconnect(container, workload)
                await self._engine.start_container(container)

    def is_lost(self, container: str) -> bool:
        """Whether the engine will never start it: it was killed in the middle of starting it."""
        return container in self._lost

    async def _reconnect(self, container: str, workload: Workload) -> None:
        """Its network was remembered, or it remembers one that was removed and made again."""
        await self._networks.ensure(workload.tenant)
        network = spec.network_name(self._deployment, workload.tenant)
        try:
            await self._engine.disconnect_network(network, container)
        except DockerError as not_connected:
            if not_connected.status >= 500:
                raise
        await self._engine.connect_network(network, container, spec.endpoint(workload))

    @asynccontextmanager
    async def _with_disk(self, workload: Workload) -> AsyncGenerator[Path | None]:
        """Its data disk is mounted, if it has one; what fails for want of it meanwhile is tried again."""
        disk = None
        if workload.data_disk_gb > 0:
            disk = await self._disks.ensure(workload.id, workload.data_disk_gb)
        try:
            yield disk
        except DockerError as error:
            if disk is None or await self._disks.is_mounted(workload.id):
                raise
            raise Unreachable("The data disk was unmounted while the instance was being started") from error

    async def start_again(self, found: Found, workload: Workload) -> None:
        """Make a stopped container ``workload.start``."""
        if not (found.starting and found.start == workload.start):
            name = self._name(workload, starting=True)
            await self._engine.rename_container(found.container, name)
        await self.start(found.container, workload)
        await self.finish_start(found.container, workload)

    async def finish_start(self, container: str, workload: Workload) -> None:
        await self._engine.rename_container(container, self._name(workload))

    async def stop(self, *containers: Found) -> None:
        """Ask them to end, all at once, and kill what is there after its grace."""
        ends = (self._stop(found.container) for found in containers)
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if error is not None:
                raise error

    async def _stop(self, container: str) -> None:
        try:
            await self._engine.stop_container(container, self._stop_grace)
        except DockerError as error:
            if error.status != 404:
                raise

    async def remove(self, container: str) -> None:
        """Kill and remove it; returns when it is gone."""
        loop = asyncio.get_running_loop()
        until = loop.time() + REMOVAL_SECONDS
        while True:
            try:
                await self._engine.remove_container(container)
            except DockerError as error:
                if error.status == 404:
                    return
                if error.status != 409:  # 409: being removed already
                    raise
                if loop.time() > until:
                    raise Unreachable(f"The container engine is slow to remove: {error.message}") from error
                await asyncio.sleep(0.1)
            else:
                self._lost.discard(container)
                return

    async def carry_over(self, found: Found, workload: Workload) -> None:
        """Replace a stopped container by one of another shape that has the same system disk.

        The engine cannot give other devices or ports to a container that is there. The old one is
        removed once the new one exists; a crash in between leaves both, and the newer one counts.
        """
        repository = spec.system_image(self._deployment, workload.id)
        image = f"{repository}:{workload.start}"
        await self._remove_image(image)  # of a move cut short; without its name nobody would find it
        await self._engine.commit_container(found.container, repository, str(workload.start))
        async with self._networks.using(workload.tenant):
            await self.create(workload, image=image, volumes_from=found.container)
        await self.remove(found.container)

    async def remove_system_images(self, id: InstanceId) -> None:
        """Remove what :meth:`carry_over` made for ``id``."""
        repository = spec.system_image(self._deployment, id)
        rows = await self._engine.list_images(reference=[repository])
        tags = [tag for row in rows for tag in row.get("RepoTags") or () if tag.startswith(f"{repository}:")]
        # The newest first: each is made on top of the one before.
        for tag in sorted(tags, key=lambda tag: int(tag.rpartition(":")[2]), reverse=True):
            await self._remove_image(tag)
        # A commit that a killed server began and the next one began again: only one of them has the name.
        labels = [f"{spec.DEPLOYMENT}={self._deployment}", f"{spec.INSTANCE}={id}"]
        for row in await self._engine.list_images(label=labels, dangling=["true"]):
            await self._remove_image(row["Id"])

    async def _remove_image(self, name: str) -> None:
        try:
            await self._engine.remove_image(name)
        except DockerError as error:
            if error.status != 404:
                raise

    def _name(self, workload: Workload, *, starting: bool = False) -> str:
        return spec.container_name(self._deployment, workload.id, workload.start, starting=starting)

    def _read(self, rows: list[dict[str, object]]) -> list[Found]:
        found = [spec.read_row(row, self._deployment) for row in rows]
        return sorted((one for one in found if one is not None), key=lambda one: one.start)


def _says_no_network(error: DockerError) -> bool:
    """There is none of that name, or there are two."""
    message = error.message.lower()
    return "network" in message and (error.status == 404 or "is ambiguous" in message)
