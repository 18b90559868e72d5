"""Runs instances as containers of one Docker Engine. The rules are those of ``drivers/contract``.

Each call does the next step towards what is wanted and may be asked again: a pull, a stop with
its grace and the move of a system disk go on in the background and ring when they are through.
What is kept in memory (pulls, probes, ends) only saves questions; names and labels of containers
say all that must outlive the server.
"""

from __future__ import annotations

import asyncio
import shutil
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeVar

from aiodocker.exceptions import DockerError

from tidemill.drivers.contract import (
    Capabilities,
    Device,
    Driver,
    EngineReport,
    Guest,
    Node,
    Port,
    Refused,
    Trace,
    Unreachable,
    Workload,
)
from tidemill.drivers.docker import spec
from tidemill.drivers.docker.containers import Containers
from tidemill.drivers.docker.disks import GB, Disks
from tidemill.drivers.docker.ends import Ends, InitScripts
from tidemill.drivers.docker.engine import Engine
from tidemill.drivers.docker.errors import in_contract_words
from tidemill.drivers.docker.events import EngineEvents
from tidemill.drivers.docker.files import Files
from tidemill.drivers.docker.images import Pulls
from tidemill.drivers.docker.logs import frames
from tidemill.drivers.docker.networks import Networks
from tidemill.drivers.docker.processes import Processes
from tidemill.drivers.docker.reach import Probes, probe_host
from tidemill.drivers.docker.spec import Found
from tidemill.drivers.docker.traces import Kept
from tidemill.drivers.hints import Hints
from tidemill.model.observation import InstanceId, Phase, Seen

T = TypeVar("T")

CLOSE_SECONDS = 10.0  # how long calls under way are waited for at the end


class DockerDriver(Driver):
    """One engine, one deployment. Connects at first use, so it can be made while Docker is down.

    Args:
        url: where the engine listens, ``unix:///var/run/docker.sock`` or ``tcp://host:port``.
        deployment: the label on everything that is made; lower case letters, digits, dashes.
        guest: what is mounted into every instance.
        data_dir: instance files, data disks and their mounts go below it.
        publish_address: the host's address that node ports are published on.
        network_pool: IPv4 range in CIDR form from which each tenant gets a /24.
        registries: user name and password by registry host (``docker.io`` for Docker Hub).
        devices: the accelerators of the machine.
        stop_grace: seconds that a stopping instance gets before it is killed.
        node_name: what this machine is called in the catalogue.
        pull_pauses: the first and the longest pause after a failed pull, in seconds.
    """

    capabilities = Capabilities(data_disks=True, logs=True, devices=True)

    def __init__(
        self,
        *,
        url: str,
        deployment: str,
        guest: Guest,
        data_dir: Path,
        publish_address: str,
        network_pool: str,
        registries: Mapping[str, tuple[str, str]],
        devices: Sequence[Device] = (),
        stop_grace: float = 10.0,
        node_name: str = "local",
        pull_pauses: tuple[float, float] = (2.0, 120.0),
    ) -> None:
        data_dir = data_dir.absolute()
        self._deployment = deployment
        self._guest = guest
        self._data_dir = data_dir
        self._devices = tuple(devices)
        self._node_name = node_name
        self._hidden = {str(data_dir), str(guest.folder)}  # folders that users need not know of
        self._hints = Hints()
        ring = self._hints.ring
        self._engine = Engine(url)
        self._files = Files(data_dir)
        self._disks = Disks(data_dir)
        self._networks = Networks(self._engine, deployment, network_pool)
        self._pulls = Pulls(self._engine, registries, ring, pull_pauses)
        self._probes = Probes(probe_host(publish_address), ring)
        self._ends = Ends(self._engine, self._hidden)
        self._init_scripts = InitScripts(self._engine, guest.init_exit_path, ring)
        self._events = EngineEvents(self._engine, deployment, ring)
        self._containers = Containers(
            engine=self._engine,
            networks=self._networks,
            disks=self._disks,
            files=self._files,
            guest=guest,
            deployment=deployment,
            publish_address=publish_address,
            stop_grace=stop_grace,
        )
        self._kept = Kept(
            engine=self._engine,
            networks=self._networks,
            deployment=deployment,
            data_dir=data_dir,
            remove=self.ensure_absent,
        )
        self._processes = Processes(self._files.root, guest.files_mount)
        self._astray: set[InstanceId] = set()  # instances with processes that the engine does not know of
        self._looked_at_break: int | None = None
        self._met: set[InstanceId] = set()  # instances that may have a container
        self._calls: set[asyncio.Task[Any]] = set()
        self._working: dict[InstanceId, asyncio.Task[None]] = {}
        self._locks: weakref.WeakValueDictionary[InstanceId, asyncio.Lock] = weakref.WeakValueDictionary()

    async def nodes(self) -> list[Node]:
        with in_contract_words(self._hidden):
            info = await self._engine.info()
            self._hidden.add(info["DockerRootDir"])
            disk = await asyncio.to_thread(self._disk_gb)
        return [
            Node(
                name=self._node_name,
                cpu=float(info["NCPU"]),
                memory_mb=int(info["MemTotal"]) // spec.MIB,
                disk_gb=disk,
                devices=self._devices,
            )
        ]

    async def observe(self) -> Mapping[InstanceId, Seen]:
        # What is to be forgotten is taken before the listing: a start during it must not be.
        old_probes, old_ends = self._probes.known(), self._ends.known()
        old_scripts = self._init_scripts.known()
        pulling = self._pulls.seen()
        breaks = self._events.breaks
        with in_contract_words(self._hidden):
            newest: dict[InstanceId, Found] = {}
            there = await self._containers.all()
            for found in there:  # what runs must not be hidden by what does not
                newest[found.id] = max(
                    newest.get(found.id, found), found, key=lambda one: (one.runs, one.start)
                )
            seen = await asyncio.gather(*(self._see(found) for found in newest.values()))
            astray = await self._look_for_processes(there, breaks)
        self._met.update(newest)
        running = {(found.container, found.start) for found in newest.values() if found.runs}
        self._probes.forget(old_probes - running)
        self._ends.forget(old_ends - {(found.container, found.start) for found in newest.values()})
        self._init_scripts.forget(old_scripts - {found.container for found in newest.values()})
        return pulling | dict(zip(newest, seen, strict=True)) | astray

    async def changes(self) -> AsyncIterator[None]:
        self._events.follow()
        async with aclosing(self._hints.listen()) as hints:
            async for _ in hints:
                yield

    async def ensure_running(self, workload: Workload) -> None:
        await self._to_the_end(workload.id, lambda: self._run(workload))

    async def ensure_stopped(self, id: InstanceId) -> bool:
        return await self._to_the_end(id, lambda: self._stop(id))

    async def ensure_absent(self, id: InstanceId) -> None:
        await self._to_the_end(id, lambda: self._remove(id))

    async def logs(self, id: InstanceId, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        spec.checked_id(id)
        params = {
            "stdout": "1",
            "stderr": "1",
            "follow": "1" if follow else "0",
            "tail": "all" if tail is None else str(tail),
        }
        try:
            for found in await self._containers.of(id):
                async with self._engine.stream(f"containers/{found.container}/logs", params) as body:
                    async for chunk in frames(body):
                        yield chunk
        except DockerError as error:
            if error.status not in {404, 409}:  # removed meanwhile, or being removed
                raise Unreachable(f"The container engine failed: {error.message}") from error

    async def report(self) -> EngineReport:
        with in_contract_words(self._hidden):
            return await self._kept.report()

    async def published(self) -> Mapping[InstanceId, frozenset[Port]]:
        with in_contract_words(self._hidden):
            return {found.id: found.ports for found in await self._containers.all() if found.runs}

    async def traces(self) -> Sequence[Trace]:
        with in_contract_words(self._hidden):
            return await self._kept.all()

    def shows(self, kind: str, name: str) -> bool:
        return self._kept.shows(kind, name)

    async def erase(self, trace: Trace) -> None:
        with in_contract_words(self._hidden):
            await self._kept.erase(trace)

    async def close(self) -> None:
        if self._calls:
            await asyncio.wait(self._calls, timeout=CLOSE_SECONDS)
        tasks = [*self._calls, *self._working.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for part in (self._events, self._pulls, self._probes, self._init_scripts, self._engine):
            await part.close()

    async def _run(self, workload: Workload) -> None:
        is_busy = self._is_busy(workload.id)
        if not is_busy or await asyncio.to_thread(self._files.remains, workload.id):
            await self._write_files(workload)
        if is_busy:
            return
        async with self._networks.using(workload.tenant):
            await self._bring_up(workload)

    async def _stop(self, id: InstanceId) -> bool:
        if self._is_busy(id):
            return False
        self._pulls.forget(id)
        running = [found for found in await self._containers.of(id) if found.runs]
        if running:
            self._work_on(id, self._containers.stop(*running))
            return False
        if id in self._astray:
            await self._processes.end(id)
        return True

    async def _remove(self, id: InstanceId) -> None:
        self._pulls.forget(id)
        work = self._working.pop(id, None)
        if work is not None:
            work.cancel()
        if id in self._astray:
            await self._processes.end(id)
        gone = await self._containers.of(id)
        for found in gone:
            await self._containers.remove(found.container)
        await self._disks.remove(id)
        for tenant in {found.tenant for found in gone}:
            await self._networks.remove_if_empty(tenant)
        if not gone and await asyncio.to_thread(self._files.remains, id):
            await self._networks.sweep()  # a crash may have come between container and network
        if not gone or any(found.start > 1 for found in gone):
            await self._containers.remove_system_images(id)
        await asyncio.to_thread(self._files.remove, id)
        self._met.discard(id)

    async def _bring_up(self, workload: Workload) -> None:
        """The next step towards ``workload.start`` running, from whatever is there."""
        fresh = workload.start == 1 and workload.id not in self._met and workload.id not in self._astray
        there = [] if fresh else await self._containers.of(workload.id)
        if workload.id in self._astray and not any(found.runs for found in there):
            await self._processes.end(workload.id)
            self._astray.discard(workload.id)
            if not there:
                return  # asked again, when it was seen that nothing is there
        if not there:
            try:
                await self._launch(workload)
            except DockerError as error:
                if not (fresh and error.status == 409):
                    raise
                there = await self._containers.of(workload.id)  # an earlier call had come that far
                if not there:
                    raise
        if there:
            await self._go_on(workload, there)

    async def _launch(self, workload: Workload) -> None:
        """A container where none is."""
        container = await self._containers.create(workload)
        if container is None:
            self._pulls.want(workload.image, workload.id, workload.start)
            return
        self._pulls.forget(workload.id)
        self._met.add(workload.id)
        await self._containers.start(container, workload)
        self._watch(container, workload)

    async def _go_on(self, workload: Workload, there: list[Found]) -> None:
        """From the containers that are ``there`` (of one instance, newest start last)."""
        newest = await self._only_one(workload, there)
        if newest is None:
            return
        is_fit = newest.shape == spec.shape(workload) and not self._containers.is_lost(newest.container)
        never_ran = newest.state == "created" and not self._is_carried(newest)
        is_this_start = newest.start == workload.start and not newest.starting
        if newest.runs:
            if newest.starting:
                await self._containers.finish_start(newest.container, workload)
        elif is_this_start and not (never_ran and not is_fit):
            if newest.state != "created":
                return  # it ended; a new start number is to be asked for
            await self._containers.start(newest.container, workload)
        elif never_ran:
            await self._containers.remove(newest.container)  # never ran, so there is nothing to keep
            await self._launch(workload)
            return
        elif not is_fit:
            self._work_on(workload.id, self._containers.carry_over(newest, workload))
            return
        else:
            await self._containers.start_again(newest, workload)
        self._watch(newest.container, workload)

    async def _only_one(self, workload: Workload, there: list[Found]) -> Found | None:
        """The container to go on from, with no other beside it that could be taken for it.

        None when that needs another step, or the instance is in a later start. Two are there after a
        move that was cut short, or by somebody's hand: what was used is kept unless it was carried over.
        """
        newest = there[-1]
        if newest.start > workload.start:
            return None
        if newest.is_going:
            await self._containers.remove(newest.container)
            return None
        earlier = [found for found in there if found.runs and found.start != workload.start]
        if earlier:
            self._work_on(workload.id, self._containers.stop(*earlier))
            return None
        used = [older for older in there[:-1] if older.state != "created"]
        if used and newest.state == "created" and not self._is_carried(newest):
            await self._containers.remove(newest.container)  # the system disk is in another
            return None
        for older in there[:-1]:
            if older not in used or self._is_carried(newest):
                await self._containers.remove(older.container)
        return newest

    def _is_carried(self, found: Found) -> bool:
        """Whether it was made with the system disk of the instance's container before it."""
        return found.image.startswith(spec.system_image(self._deployment, found.id))

    async def _see(self, found: Found) -> Seen:
        init = self._init_scripts.exit_code(found.container) if found.has_init else None
        if found.runs and found.starting:
            # Not yet the start that it is to be: shown as the one before, so that the rest is done too.
            return Seen(found.start - 1, Phase.STARTED, init_exit=init, devices=found.devices)
        if found.runs:
            if found.has_init:
                self._init_scripts.watch(found.container)
            key = (found.container, found.start)
            if found.ssh_port is not None:
                self._probes.watch(key, found.ssh_port)
            phase = Phase.REACHABLE if self._probes.reached(key) else Phase.STARTED
            return Seen(found.start, phase, init_exit=init, devices=found.devices)
        self._init_scripts.rest({found.container})
        if found.state == "created" or found.starting:
            return Seen(found.start, Phase.CREATED, init_exit=init)
        end = await self._ends.of(found)
        return Seen(
            found.start,
            Phase.EXITED,
            reason=end.reason,
            message=end.message,
            exit_code=end.exit_code,
            ended_at=end.at,
            init_exit=init,
        )

    async def _look_for_processes(self, there: list[Found], breaks: int) -> dict[InstanceId, Seen]:
        """Instances that run without the engine's knowing; looked for once after it may have been killed.

        They are shown as what they are, something that runs and is not the start that is wanted: so
        whoever wants it stopped or gone has its processes ended, and who wants it running another start.
        """
        if self._looked_at_break == breaks and not self._astray:
            return {}
        running = {found.container: found.id for found in there if found.runs}
        self._astray = await self._processes.astray(running)
        self._looked_at_break = breaks
        starts = {found.id: found.start for found in there}  # the newest start comes last
        shown: dict[InstanceId, Seen] = {}
        for id in self._astray:
            if id not in running.values():
                shown[id] = Seen(max(0, starts.get(id, 0) - 1), Phase.STARTED)
            elif not self._is_at_work(id):
                self._work_on(id, self._to_the_end(id, lambda id=id: self._end_astray(id)))
        return shown

    async def _end_astray(self, id: InstanceId) -> None:
        """End what runs beside the container that the engine knows of."""
        running = {found.container for found in await self._containers.of(id) if found.runs}
        await self._processes.end(id, running)

    def _watch(self, container: str, workload: Workload) -> None:
        for port in workload.ports:
            if port.port == spec.SSH_PORT:
                self._probes.watch((container, workload.start), port.node_port)
        if workload.init_script:
            self._init_scripts.watch(container)

    async def _write_files(self, workload: Workload) -> None:
        try:
            files = self._guest.files(
                authorized_keys=workload.authorized_keys,
                host_key=workload.host_key,
                init_script=workload.init_script,
                notices=workload.notices,
                access=workload.access,
            )
        except ValueError as error:
            raise Refused(f"The instance's files could not be made: {error}") from error
        await asyncio.to_thread(self._files.write, workload.id, files, workload.revision)

    def _work_on(self, id: InstanceId, work: Coroutine[None, None, None]) -> None:
        """Do ``work`` in the background; until it ends, other calls for ``id`` do nothing."""

        async def run() -> None:
            try:
                await work
            finally:
                self._hints.ring()

        self._working[id] = asyncio.create_task(run())

    def _is_at_work(self, id: InstanceId) -> bool:
        return id in self._working and not self._working[id].done()

    def _is_busy(self, id: InstanceId) -> bool:
        """Whether background work for ``id`` goes on. Raises what it ended with."""
        work = self._working.get(id)
        if work is None:
            return False
        if not work.done():
            return True
        del self._working[id]
        with suppress(asyncio.CancelledError):
            work.result()
        return False

    async def _to_the_end(self, id: InstanceId, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work``, one at a time for ``id``, and to its end even when the caller gives up.

        So a repeat never meets the half of an earlier call that is still under way.
        """
        spec.checked_id(id)

        async def run() -> T:
            async with self._locks.setdefault(id, asyncio.Lock()):
                with in_contract_words(self._hidden):
                    return await work()

        call = asyncio.create_task(run())
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return await asyncio.shield(call)

    def _disk_gb(self) -> int:
        folder = self._data_dir if self._data_dir.exists() else self._data_dir.parent
        return shutil.disk_usage(folder).free // GB + self._disks.held_gb()
