"""What is done to one container: create, start, stop, remove, and give it another shape.

A container outlives many starts of its instance, and its name says which start it is in. Between
being an older start and being ``n`` it is called ``n.starting``: so the end of the older start is
never taken for the end of ``n``, wherever a crash comes.
"""

from __future__ import annotations

import asyncio

from aiodocker.exceptions import DockerError

from tidemill.drivers.contract import Guest, Unreachable, Workload
from tidemill.drivers.docker import spec
from tidemill.drivers.docker.disks import Disks
from tidemill.drivers.docker.engine import Engine
from tidemill.drivers.docker.files import Files
from tidemill.drivers.docker.networks import Networks
from tidemill.drivers.docker.spec import Found
from tidemill.model.observation import InstanceId

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
        data_disk = (
            await self._disks.ensure(workload.id, workload.data_disk_gb)
            if workload.data_disk_gb > 0
            else None
        )
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
        if workload.data_disk_gb > 0:
            await self._disks.ensure(workload.id, workload.data_disk_gb)
        try:
            await self._engine.start_container(container)
        except DockerError as error:
            if not _says_no_network(error):
                raise
            # It was remembered, or the container remembers one that was removed and made again.
            await self._networks.ensure(workload.tenant)
            network = spec.network_name(self._deployment, workload.tenant)
            try:
                await self._engine.disconnect_network(network, container)
            except DockerError as not_connected:
                if not_connected.status >= 500:
                    raise
            await self._engine.connect_network(network, container, spec.endpoint(workload))
            await self._engine.start_container(container)

    async def start_again(self, found: Found, workload: Workload) -> None:
        """Make a stopped container ``workload.start``."""
        if not (found.starting and found.start == workload.start):
            name = self._name(workload, starting=True)
            await self._engine.rename_container(found.container, name)
        await self.start(found.container, workload)
        await self.finish_start(found.container, workload)

    async def finish_start(self, container: str, workload: Workload) -> None:
        await self._engine.rename_container(container, self._name(workload))

    async def stop(self, found: Found) -> None:
        """Ask it to end, and kill it after its grace."""
        try:
            await self._engine.stop_container(found.container, self._stop_grace)
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
        rows = await self._engine.list_images(repository)
        tags = [tag for row in rows for tag in row.get("RepoTags") or () if tag.startswith(f"{repository}:")]
        # The newest first: each is made on top of the one before.
        for tag in sorted(tags, key=lambda tag: int(tag.rpartition(":")[2]), reverse=True):
            await self._remove_image(tag)

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
